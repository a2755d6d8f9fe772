"""Sweep: every precision and batch size built and measured, each measurement in a process of its own, none twice."""

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
    """Settings of a sweep.

    Attributes:
        model: the ONNX file.
        datasets: folder of the set that AP is measured on, and whose crops the throughput runs take.
        calibration: folder of the set for INT8.
        precisions, batches: every pair of them is a cell.
        output: folder of the sweep.
        backend: as ``build_engine.py --backend`` takes it.
        extra: more options of inference.py, for every run of it.
    """

    model: str
    datasets: str
    calibration: str | None
    precisions: Sequence[str]
    batches: Sequence[int]
    output: Path
    backend: str
    extra: Sequence[str] = ()


@dataclass
class Cell:
    """One precision and batch size, and its results.

    Attributes:
        precision: that is asked for.
        batch: number of crops a run.
        folder: of the summaries, the pictures, and the output of each step.
        engine: the engine file. Engines lie together, because the INT8 calibration beside them serves every batch size.
        accuracy, throughput: the two runs' ``summary.json``.
        failure: the error, else empty.
    """

    precision: str
    batch: int
    folder: Path
    engine: Path
    accuracy: dict[str, Any] = field(default_factory=dict)
    throughput: dict[str, Any] = field(default_factory=dict)
    failure: str = ""

    @property
    def summary(self) -> dict[str, Any]:
        """Both summaries in one, where the FPS is the engine's alone."""
        return {**self.accuracy, **self.throughput}


def plan(settings: Settings) -> list[Cell]:
    """The cells in the order they are run in: FP32 first, because the others are compared with it."""
    pairs = [(precision, batch) for precision in sorted(settings.precisions, key=lambda name: name != "fp32")
             for batch in settings.batches]
    return [Cell(precision, batch, make_folder(settings.output / "cells" / f"{precision}_bs{batch}"),
                 make_folder(settings.output / "engines") / f"{precision}_bs{batch}.engine")
            for precision, batch in pairs]


def run_sweep(settings: Settings) -> list[Cell]:
    """Run every cell and print the progress; a failure is reported, and the next cell is run.

    Raises:
        KitError: the ONNX file can't be read, or the output folder can't be written.
    """
    input_name, input_shape = graph.read_input(graph.load(settings.model))
    cells = plan(settings)
    references: dict[int, Path] = {}
    for number, cell in enumerate(cells, 1):
        progress = f"cell {number}/{len(cells)}: {cell.precision}, batch {cell.batch}"
        try:
            print(f"{progress}: build", flush=True)
            build_cell(cell, settings, input_name, (cell.batch, *input_shape[1:]))
            measure_cell(cell, settings, references.get(cell.batch), progress)
        except KitError as error:
            cell.failure = str(error)
            print(f"{progress}: failed: {error}", flush=True)
        else:
            if cell.precision == "fp32":
                references[cell.batch] = cell.engine
    return cells


def build_cell(cell: Cell, settings: Settings, input_name: str, shape: tuple[int, int, int, int]) -> None:
    """Build a cell's engine, unless the same is there already; ``build.txt`` says what was built.

    Raises:
        KitError: it can't be built.
    """
    calibration = settings.calibration if cell.precision == "int8" else None
    build = plan_build(settings.model, cell.engine, input_name, shape, cell.precision, settings.backend, calibration)
    if not is_built(build):
        lines = text.build_lines(build, build_engine(build))
        write_bytes(cell.folder / "build.txt", f"{lines}\n".encode())


def measure_cell(cell: Cell, settings: Settings, reference: Path | None, progress: str) -> None:
    """Measure a cell's engine; what was measured before from the same inputs is kept.

    Args:
        cell: its results are put into it.
        settings: of the sweep.
        reference: FP32 engine of this batch size, to be compared with.
        progress: to begin what is printed with.

    Raises:
        KitError: a step failed.
    """
    measure = [*settings.extra, "--engine", str(cell.engine), "--datasets", settings.datasets]
    compared = ["--reference", str(reference)] if reference else []
    cell.accuracy = run_inference(cell.folder / "accuracy", f"{progress}: accuracy",
                                  [*measure, "--visualize", str(_PICTURES), *compared])
    cell.throughput = run_inference(cell.folder / "throughput", f"{progress}: throughput",
                                    [*measure, "--perf_only", "True"])


def run_inference(folder: Path, progress: str, arguments: list[str]) -> dict[str, Any]:
    """Run inference.py, unless its summary in ``folder`` is of the same command, files, machine and versions.

    Returns:
        The summary.
    """
    summary, arguments = folder / "summary.json", [*arguments, "--output", str(folder)]
    if is_current(summary, arguments):
        print(f"{progress}: kept, nothing that it depends on has changed", flush=True)
    else:
        print(progress, flush=True)
        # An old result must not be taken for this run's, should it fail.
        summary.unlink(missing_ok=True)
        try:
            run_script(arguments, Path(f"{folder}.txt"))
        except KitError:
            summary.unlink(missing_ok=True)
            raise
    return read_json(summary, "a summary.json")


def is_current(summary: Path, arguments: list[str]) -> bool:
    """Whether a ``summary.json`` is of what inference.py would do here with these arguments."""
    try:
        found = read_json(summary, "a summary.json")
        return (shlex.split(found["command"])[2:] == arguments and found["machine"] == describe_machine()
                and found["versions"] == describe_versions()
                and all(sha256(path) == digest for path, digest in found["inputs"].items()))
    except (KitError, KeyError, TypeError):
        return False


def run_script(arguments: list[str], log: Path) -> None:
    """Run inference.py in a process of its own; what it prints is added to ``log``.

    Raises:
        KitError: it failed.
    """
    start = time.perf_counter()
    with open(log, "a", encoding="utf-8") as output:
        code = subprocess.run([sys.executable, os.path.relpath(_INFERENCE), *arguments], stdout=output,
                              stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False).returncode
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code:
        raise KitError(f"{lines[-1] if lines else 'inference.py'} (exit code {code} of inference.py; its output is in "
                       f"{log})")
    print(f"  {time.perf_counter() - start:.0f} s; {log}", flush=True)
