"""Sweep: build and measure every precision and batch size, each measurement in its own process, none twice."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtmpose.engines.build import build_engine, is_built, plan_build
from rtmpose.environment import describe_machine, describe_versions
from rtmpose.errors import KitError
from rtmpose.files import make_folder, read_json, sha256, write_bytes
from rtmpose.model import graph
from rtmpose.report import text

_INFERENCE = Path(__file__).resolve().parents[2] / "inference.py"
_PICTURES = 2  # of the worst images, and of the best


@dataclass(frozen=True)
class Settings:
    """Settings of a sweep."""

    model: str  # the ONNX file
    datasets: str  # folder of the set that AP is measured on; the throughput runs take its crops
    calibration: str | None  # folder of the set for INT8
    precisions: Sequence[str]
    batches: Sequence[int]
    output: Path
    backend: str  # as build_engine.py --backend takes it
    repeats: int  # processes of each throughput run
    extra: Sequence[str]  # more options for every run of inference.py


@dataclass
class Cell:
    """One precision and batch size, and its results."""

    precision: str  # requested
    batch: int
    folder: Path  # summaries, pictures, and the output of each step
    engine: Path  # in one folder with the others: the INT8 calibration beside it serves every batch size
    accuracy: dict[str, Any] = field(default_factory=dict)  # summary.json of the accuracy run
    throughput: dict[str, Any] = field(default_factory=dict)  # summary.json of the throughput run
    failure: str = ""  # the error, if there was one

    @property
    def name(self) -> str:
        """The cell's name for people."""
        return f"{self.precision}, batch {self.batch}"

    @property
    def summary(self) -> dict[str, Any]:
        """Both summaries in one; FPS is the engine's alone."""
        return {**self.accuracy, **self.throughput}


def run_sweep(settings: Settings) -> list[Cell]:
    """Run every cell and print the progress. A failure is reported, and the sweep continues with the next cell.

    Raises KitError if the ONNX file can't be read or the output folder can't be written.
    """
    input_name, input_shape = graph.read_input(graph.load(settings.model))
    if len(input_shape) != 4:
        raise KitError(f"{settings.model}: has an input of {len(input_shape)} dimensions, expected N x 3 x H x W; "
                       "use a graph that export.py wrote")
    _, channels, height, width = (size or 0 for size in input_shape)
    cells = plan_cells(settings)
    references: dict[int, Path] = {}
    for number, cell in enumerate(cells, 1):
        progress = f"cell {number}/{len(cells)}: {cell.name}"
        try:
            run_cell(cell, settings, input_name, (cell.batch, channels, height, width), references.get(cell.batch),
                     progress)
        except KitError as error:
            cell.failure = str(error)
            print(f"{progress}: failed: {error}", flush=True)
        else:
            if cell.precision == "fp32":
                references[cell.batch] = cell.engine
    return cells


def plan_cells(settings: Settings) -> list[Cell]:
    """The cells in the order in which they run: FP32 first, because the others are compared with it."""
    engines, cells = make_folder(settings.output / "engines"), settings.output / "cells"
    return [Cell(precision, batch, make_folder(cells / f"{precision}_bs{batch}"),
                 engines / f"{precision}_bs{batch}.engine")
            for precision in sorted(settings.precisions, key=lambda name: name != "fp32") for batch in settings.batches]


def run_cell(cell: Cell, settings: Settings, input_name: str, shape: tuple[int, int, int, int],
             reference: Path | None, progress: str) -> None:
    """Build a cell's engine, unless it is up to date, and measure it; ``build.txt`` describes it.

    ``reference`` is the FP32 engine of the same batch size, to compare with. Raises KitError if a step fails.
    """
    print(f"{progress}: build", flush=True)
    calibration = settings.calibration if cell.precision == "int8" else None
    build = plan_build(settings.model, cell.engine, input_name, shape, cell.precision, settings.backend, calibration)
    if not is_built(build):
        write_bytes(cell.folder / "build.txt", f"{text.build_lines(build, build_engine(build))}\n".encode())
    arguments = [*settings.extra, "--engine", str(cell.engine), "--datasets", settings.datasets]
    compare = ["--reference", str(reference)] if reference else []
    cell.accuracy = run_inference(cell.folder / "accuracy", f"{progress}: accuracy",
                                  [*arguments, "--visualize", str(_PICTURES), *compare])
    cell.throughput = run_inference(cell.folder / "throughput", f"{progress}: throughput",
                                    [*arguments, "--perf_only", "True", "--repeats", str(settings.repeats)])


def run_inference(folder: Path, progress: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run inference.py in its own process unless ``folder/summary.json`` is up to date, and return that summary.

    Its output is appended to ``folder.txt``. Raises KitError if inference.py fails.
    """
    summary, log, arguments = folder / "summary.json", Path(f"{folder}.txt"), [*arguments, "--output", str(folder)]
    if is_current(summary, arguments):
        print(f"{progress}: kept, nothing that it depends on has changed", flush=True)
        return read_json(summary, "a summary.json")
    print(progress, flush=True)
    summary.unlink(missing_ok=True)
    start = time.perf_counter()
    with open(log, "a", encoding="utf-8") as output:
        code = subprocess.run([sys.executable, os.path.relpath(_INFERENCE), *arguments], stdout=output,
                              stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        summary.unlink(missing_ok=True)  # a missed target writes one, too
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["inference.py"]
        raise KitError(f"{lines[-1]} (exit code {code} of inference.py; its output is in {log})")
    print(f"  {time.perf_counter() - start:.0f} s; {log}", flush=True)
    return read_json(summary, "a summary.json")


def is_current(summary: Path, arguments: Sequence[str]) -> bool:
    """Whether a ``summary.json`` comes from these arguments, the same files, this machine and these versions."""
    try:
        found = read_json(summary, "a summary.json")
        return (shlex.split(found["command"])[2:] == arguments and found["machine"] == describe_machine()
                and found["versions"] == describe_versions()
                and all(sha256(path) == digest for path, digest in found["inputs"].items()))
    except (KitError, KeyError, TypeError):
        return False
