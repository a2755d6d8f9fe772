"""Results as they were written, as cells: one engine each, with its accuracy run and its throughput run."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from rtmpose.errors import KitError
from rtmpose.files import read_json, read_sealed, sha256
from rtmpose.report import summary as rows

_SCHEMA = Draft202012Validator(json.loads(Path(__file__).with_name("summary.schema.json").read_text(encoding="utf-8")))


@dataclass(eq=False)
class Cell:
    """A precision and batch size, and the ``summary.json`` of each of its runs; empty where there was none."""

    precision: str  # requested
    batch: int
    folder: Path  # of the accuracy run: keypoints.json and pictures
    accuracy: dict[str, Any] = field(default_factory=dict)
    throughput: dict[str, Any] = field(default_factory=dict)
    failure: str = ""  # the error, if it could not be measured
    label: str = ""  # of the result that it belongs to, where there are several

    @property
    def name(self) -> str:
        """The cell's name for people."""
        return f"{self.label and f'{self.label}: '}{self.precision}, batch {self.batch}"

    @property
    def summary(self) -> dict[str, Any]:
        """Both summaries in one; the speed is that of the throughput run, if there is one."""
        return rows.join_modes(self.accuracy, self.throughput)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The summaries that there are, accuracy first."""
        return [run for run in (self.accuracy, self.throughput) if run]

    @property
    def timed(self) -> dict[str, Any]:
        """The summary whose speed counts: of the throughput run, if there is one; empty if no speed was measured."""
        return next((run for run in reversed(self.runs) if "fps" in run), {})

    @property
    def notes(self) -> list[str]:
        """What a reader must know beside the figures."""
        return list(dict.fromkeys(note for run in self.runs for note in rows.notes(run)))


def cell_folder(output: Path, precision: str, batch: int) -> Path:
    """Where a sweep keeps the summaries of a cell, in a folder for each mode."""
    return output / "cells" / f"{precision}_bs{batch}"


def read_results(arguments: Sequence[str]) -> list[list[Cell]]:
    """The cells of each result. Two summaries of one engine, of an accuracy and a throughput run, are one result.

    Raises KitError if a file is missing or broken, or given twice.
    """
    results: list[list[Cell]] = []
    for argument, label in zip(arguments, _labels(arguments), strict=True):
        cells = read_cells(argument, label)
        for number, result in enumerate(results):
            if len(result) == len(cells) == 1 and (joined := _join(result[0], cells[0])):
                results[number] = [joined]
                break
        else:
            results.append(cells)
    return results


def read_cells(argument: str | Path, label: str = "") -> list[Cell]:
    """Read a ``summary.json``, its folder, a folder with those of both modes, or a sweep's folder.

    Raises KitError if it is none or is broken.
    """
    path = Path(argument)
    accuracy, throughput = (path / mode / "summary.json" for mode in ("accuracy", "throughput"))
    if accuracy.is_file() and throughput.is_file():
        joined = _join(_read_run(accuracy, label), _read_run(throughput, label))
        if joined is None:
            raise KitError(f"{throughput}: was measured with a different engine than {accuracy}; measure both with the "
                           "same one")
        return [joined]
    if path.is_dir():
        path = next((path / name for name in ("results.json", "summary.json") if (path / name).is_file()), path)
    if path.is_dir():
        raise KitError(f"{path}: has neither results.json nor summary.json, expected the output folder of "
                       "scripts/benchmark.sh or of inference.py")
    content = read_json(path, "a summary.json, or a sweep's results.json")
    return _read_sweep(path, content, label) if isinstance(content, list) else [_read_run(path, label)]


def read_summary(path: Path) -> dict[str, Any]:
    """Read a ``summary.json``. Raises KitError if it is broken, was edited, or doesn't follow the schema."""
    content = read_sealed(path, "summary.json")
    check_summary(content, str(path))
    return content


def check_summary(summary: Any, name: str) -> None:
    """Raise KitError unless a summary follows the schema; ``name`` says where it is from."""
    error = best_match(_SCHEMA.iter_errors(summary))
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "the summary"
        raise KitError(f"{name}: {where}: {error.message:.200}; expected a summary.json as this version of the "
                       "kit writes it; measure it again")


def _read_run(path: Path, label: str) -> Cell:
    run = read_summary(path)
    cell = Cell(run["requested_precision"], run["batch"], path.parent, label=label)
    return replace(cell, accuracy=run) if run["mode"] == "accuracy" else replace(cell, throughput=run)


def _join(one: Cell, two: Cell) -> Cell | None:
    """The cell of an accuracy and a throughput run, if that is what two cells are, and of one engine."""
    runs = [*one.runs, *two.runs]
    if len({run["mode"] for run in runs}) < len(runs) or len({run["engine"]["sha256"] for run in runs}) > 1:
        return None
    scored = one if one.accuracy else two
    return replace(one, folder=scored.folder, accuracy=scored.accuracy, throughput=one.throughput or two.throughput)


def _read_sweep(path: Path, content: list[Any], label: str) -> list[Cell]:
    cells = []
    try:
        for cell in content:
            if not cell["failure"]:
                folder = cell_folder(path.parent, cell["precision"], cell["batch"]) / "accuracy"
                cells.append(Cell(**cell, folder=folder, label=label))
    except (KeyError, TypeError) as error:
        raise KitError(f"{path}: is no sweep's results.json ({error!r}); measure it again") from error
    if not cells:
        raise KitError(f"{path}: has no cell that was measured; the sweep's own output says why")
    for cell in cells:
        for run in cell.runs:
            check_summary(run, f"{path}: {cell.precision}, batch {cell.batch}")
    return cells


def _labels(arguments: Sequence[str]) -> list[str]:
    """A label for each argument: its folder's name, or all of it where names are equal. Raises KitError for twins."""
    paths = [Path(argument) for argument in arguments]
    names = [(path if path.is_dir() else path.parent).resolve().name for path in paths]
    labels = [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
    twins = [label for label in labels if labels.count(label) > 1]
    if twins:
        raise KitError(f"{twins[0]}: is given twice, expected different results")
    return labels


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


@functools.cache
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
