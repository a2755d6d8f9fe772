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

from rtmpose import startup
from rtmpose.engines.build import build_engine, is_built, plan_build
from rtmpose.errors import EXIT_ACCURACY_MISSED, EXIT_THROUGHPUT_MISSED, KitError
from rtmpose.files import make_folder, sha256, write_text
from rtmpose.machine.versions import describe_machine, describe_versions
from rtmpose.model import graph
from rtmpose.report import text
from rtmpose.report.summary import count_devices, join_modes, notes, read_summary

_INFERENCE = Path(__file__).resolve().parents[2] / "inference.py"
_PICTURES = 2  # of the worst persons, and of the best


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
    repeats: int  # processes of each throughput run, one after the other
    devices: int  # processes that torchrun starts for each run, one a device
    extra: dict[str, list[str]]  # more options for inference.py, for "accuracy" and "throughput" runs


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
        return join_modes(self.accuracy, self.throughput)

    @property
    def notes(self) -> list[str]:
        """What a reader must know beside the figures; none if the cell failed."""
        return [] if self.failure else list(dict.fromkeys([*notes(self.accuracy), *notes(self.throughput)]))


def run_sweep(settings: Settings) -> list[Cell]:
    """Run every cell and print the progress. A failure is reported, and the sweep continues with the next cell.

    Raises KitError if the ONNX file can't be read or the output folder can't be written.
    """
    graph.find_input(graph.load(settings.model), settings.model, settings.batches[0])
    cells = plan_cells(settings)
    references: dict[int, Path] = {}
    for number, cell in enumerate(cells, 1):
        progress = f"cell {number}/{len(cells)}: {cell.name}"
        try:
            run_cell(cell, settings, references.get(cell.batch), progress)
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


def run_cell(cell: Cell, settings: Settings, reference: Path | None, progress: str) -> None:
    """Build a cell's engine, unless it is up to date, and measure it; ``build.txt`` describes it.

    ``reference`` is the FP32 engine of the same batch size, to compare with. Raises KitError if a step fails.
    """
    print(f"{progress}: build", flush=True)
    calibration = settings.calibration if cell.precision == "int8" else None
    build = plan_build(settings.model, cell.engine, cell.batch, cell.precision, settings.backend, calibration)
    if not is_built(build):
        write_text(cell.folder / "build.txt", f"{text.build_lines(build, build_engine(build))}\n")
    arguments = ["--engine", str(cell.engine), "--datasets", settings.datasets]
    compare = ["--reference", str(reference)] if reference else []
    cell.accuracy = run_inference(cell.folder / "accuracy", f"{progress}: accuracy",
                                  [*settings.extra["accuracy"], *arguments, "--visualize", str(_PICTURES), *compare],
                                  settings.devices)
    repeats = ["--repeats", str(settings.repeats)] if settings.repeats > 1 else []
    cell.throughput = run_inference(cell.folder / "throughput", f"{progress}: throughput",
                                    [*settings.extra["throughput"], *arguments, "--perf_only", "True", *repeats],
                                    settings.devices)


def run_inference(folder: Path, progress: str, arguments: Sequence[str], devices: int) -> dict[str, Any]:
    """Run inference.py in a process of its own for each device, unless ``folder/summary.json`` is up to date, and
    return that summary.

    The output is appended to ``folder.txt``. Raises KitError if inference.py fails.
    """
    summary, log, arguments = folder / "summary.json", Path(f"{folder}.txt"), [*arguments, "--output", str(folder)]
    if kept := read_current(summary, arguments, devices):
        print(f"{progress}: kept, nothing that it depends on has changed", flush=True)
        return kept
    print(progress, flush=True)
    summary.unlink(missing_ok=True)
    start = time.perf_counter()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices)] if devices > 1 else []
    with open(log, "ab") as output:
        before = output.tell()
        command = startup.child([sys.executable, *launcher, os.path.relpath(_INFERENCE), *arguments])
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
                              ).returncode
    # torchrun has one code for any failure, a missed target included; only a run that is done has a summary.
    done = summary.is_file() if devices > 1 else code in (0, EXIT_ACCURACY_MISSED, EXIT_THROUGHPUT_MISSED)
    if not done:
        summary.unlink(missing_ok=True)  # LoadGen's INVALID writes one, too
        lines = log.read_bytes()[before:].decode(errors="replace").strip().splitlines() or ["inference.py"]
        last = next((line for line in reversed(lines) if line.startswith("inference.py: error: ")), lines[-1])
        raise KitError(f"{last} (exit code {code} of inference.py; its output is in {log})")
    print(f"  {time.perf_counter() - start:.0f} s; {log}", flush=True)
    return read_summary(summary, folder.name)


def read_current(summary: Path, arguments: Sequence[str], devices: int) -> dict[str, Any] | None:
    """A ``summary.json`` if it comes from these arguments, as many devices, the same files, this machine and these
    versions, else None.
    """
    try:
        found = read_summary(summary, summary.parent.name)
        current = (shlex.split(found["command"])[4 if devices > 1 else 2:] == arguments
                   and count_devices(found) == devices and found["machine"] == describe_machine()
                   and found["versions"] == describe_versions()
                   and all(sha256(path) == digest for path, digest in found["inputs"].items()))
    except KitError:
        return None
    return found if current else None
