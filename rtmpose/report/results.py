"""Results as they were written: a ``summary.json``, or all of a sweep's, as cells of a precision and batch size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.errors import KitError
from rtmpose.files import read_json, read_sealed, sha256
from rtmpose.report import summary as rows
from rtmpose.report.schema import check_summary


@dataclass(frozen=True, eq=False)
class Run:
    """One ``summary.json``."""

    summary: dict[str, Any]
    folder: Path  # where it lies, beside keypoints.json

    @property
    def mode(self) -> str:
        """What was measured."""
        mode = f", {self.summary['mode']}" if "scenario" in self.summary else ""
        return rows.measurement(self.summary) + mode

    @property
    def speeds(self) -> list[float]:
        """Persons a second of each fresh process, or of the only one; empty if none was measured."""
        if "repeats" in self.summary:
            return self.summary["repeats"]["values"]
        return [self.summary[key] for key in ("fps",) if key in self.summary]

    @property
    def speed(self) -> float:
        """Persons a second: the median of the processes."""
        return float(np.median(self.speeds))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the speed, if it was repeated."""
        return tuple(self.summary["repeats"]["interval"]) if "repeats" in self.summary else None

    @property
    def conditions(self) -> str:
        """Verdict on the conditions of a speed."""
        return self.summary["conditions"]["verdict"]

    @property
    def joules(self) -> float | None:
        """Joules a person."""
        return self.summary["energy"]["joules_per_person"] if "energy" in self.summary else None


@dataclass(frozen=True, eq=False)
class Cell:
    """What was measured with one precision and batch size."""

    label: str  # of its argument
    precision: str  # requested
    batch: int
    runs: dict[str, Run]  # by mode

    @property
    def name(self) -> str:
        """The cell's name for people."""
        return f"{self.label}: {self.precision}, batch {self.batch}"

    @property
    def timed(self) -> Run | None:
        """The run whose speed counts: of the engine alone, if there is one."""
        runs = [run for run in self.runs.values() if run.speeds]
        return min(runs, key=lambda run: run.summary["mode"] == "accuracy", default=None)

    @property
    def ap(self) -> float | None:
        """AP@0.5:0.95."""
        return next((run.summary["AP"] for run in self.runs.values() if "AP" in run.summary), None)

    @property
    def any_run(self) -> Run:
        """Any of its runs, for what all share."""
        return next(iter(self.runs.values()))


def name_arguments(arguments: Sequence[str]) -> list[str]:
    """A label for each argument: its folder's name, or all of it where names are equal. Raises KitError for twins."""
    paths = [Path(argument) for argument in arguments]
    folders = [path if path.is_dir() else path.parent for path in paths]
    names = [folder.resolve().name for folder in folders]
    labels = [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
    twins = [label for label in labels if labels.count(label) > 1]
    if twins:
        raise KitError(f"{twins[0]}: is given twice, expected different results")
    return labels


def read_cells(argument: str, label: str) -> list[Cell]:
    """Read a ``summary.json``, its folder, or a sweep's folder. Raises KitError if it is none or is broken."""
    path = Path(argument)
    if path.is_dir():
        path = next((path / name for name in ("results.json", "summary.json") if (path / name).is_file()), path)
        if path.is_dir():
            raise KitError(f"{path}: has neither results.json nor summary.json, expected the output folder of "
                           "scripts/benchmark.sh or of inference.py")
    content = read_json(path, "a summary.json, or a sweep's results.json")
    if not isinstance(content, list):
        content = read_sealed(path, "summary.json")
        check_summary(content, str(path))
        run = Run(content, path.parent)
        return [Cell(label, content["requested_precision"], content["batch"], {run.mode: run})]
    try:
        cells = [_sweep_cell(path, label, cell) for cell in content if not cell["failure"]]
    except (KeyError, TypeError) as error:
        raise KitError(f"{path}: is no sweep's results.json ({error!r}); measure it again") from error
    if not cells:
        raise KitError(f"{path}: has no cell that was measured; the sweep's own output says why")
    return cells


def _sweep_cell(path: Path, label: str, cell: dict[str, Any]) -> Cell:
    folder = path.parent / "cells" / f"{cell['precision']}_bs{cell['batch']}"
    runs = []
    for name in ("throughput", "accuracy"):
        check_summary(cell[name], f"{path}: {cell['precision']}, batch {cell['batch']}, {name}")
        runs.append(Run(cell[name], folder / name))
    return Cell(label, cell["precision"], cell["batch"], {run.mode: run for run in runs})


def describe_speed(run: Run) -> str:
    """Persons a second with their interval, and what was timed unless it is the engine alone."""
    text = rows.speed(run.summary)
    return text if run.mode == "engine alone" else f"{text} ({run.mode})"


def network(summary: dict[str, Any]) -> tuple[str, ...]:
    """Digests of the network: of checkpoint and config where export.py noted them, else of the ONNX file."""
    engine = summary["engine"]
    digests = tuple(engine["source"].get(f"{name}_sha256", "") for name in ("checkpoint", "config"))
    return digests if all(digests) else (engine["onnx_sha256"],)


def annotation_file(summary: dict[str, Any]) -> tuple[str, str]:
    """Path and SHA-256 of the annotation file of an accuracy run: the input that is no engine and no boxes."""
    others = {summary["engine"]["path"], summary.get("agreement", {}).get("reference", {}).get("path"),
              summary["boxes"].removeprefix("boxes of ")}
    return next(((path, digest) for path, digest in summary["inputs"].items() if path not in others), ("", ""))


def find_annotations(path: str, digest: str, given: str | None) -> Path | None:
    """The annotation file with a digest. Raises KitError if ``given`` is another one."""
    if given is not None:
        if sha256(given) != digest:
            raise KitError(f"--annotations {given}: is another file than AP was measured on (SHA-256 {digest[:12]}...)")
        return Path(given)
    return Path(path) if Path(path).is_file() and sha256(path) == digest else None


def boxes_of(summary: dict[str, Any]) -> str:
    """SHA-256 of a detector's boxes, or "ground-truth boxes"."""
    return summary["inputs"].get(summary["boxes"].removeprefix("boxes of "), summary["boxes"])
