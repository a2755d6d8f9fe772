"""Comparison of results, of one machine or of several: which is faster, by how much, and what that does to AP."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from rtmpose.data.agreement import crop_distances, describe_agreement
from rtmpose.data.coco import Annotations, read_annotations
from rtmpose.data.preprocess import box_to_center_scale
from rtmpose.errors import EXIT_ACCURACY_MISSED, EXIT_OK, EXIT_SLOWER, EXIT_USER_ERROR, KitError
from rtmpose.evaluate.bootstrap import Matches, bootstrap_difference, full_ap, match_images, read_results
from rtmpose.report import summary as rows
from rtmpose.report.results import (
    Cell,
    Run,
    annotation_file,
    boxes_of,
    find_annotations,
    name_arguments,
    network,
    read_cells,
)

_AP_TOLERANCE = 1e-4  # keypoints.json may order persons of equal scores differently
_MACHINE = ("cpu", "instruction_sets", "cores", "gpu", "driver", "power_limit_w", "persistence_mode", "mig_mode", "os")


@dataclass
class Row:
    """A cell beside the base's cell; what couldn't be compared is None or empty."""

    cell: Cell
    base: Cell | None = None  # None in the base's own row
    timed: Run | None = None  # the run whose speed is shown
    base_timed: Run | None = None  # the base's, where the speeds can be compared
    ap_difference: float | None = None
    ap_interval: tuple[float, float] | None = None
    agreement: dict[str, Any] = field(default_factory=dict)
    differences: dict[str, str] = field(default_factory=dict)  # name: text

    @property
    def ratio(self) -> float | None:
        """The cell's speed over the base's."""
        return self.timed.speed / self.base_timed.speed if self.timed and self.base_timed else None

    @functools.cached_property
    def ratio_interval(self) -> tuple[float, float] | None:
        """Its 95 % interval, if both were repeated."""
        return ratio_interval(self.base_timed.speeds, self.timed.speeds) if self.timed and self.base_timed else None

    @property
    def verdict(self) -> str:
        """Whether the cell is faster than the base's; that takes an interval, and results."""
        if self.base is None:
            return "base"
        if self.timed is None or self.base_timed is None:
            return "-"
        interval = self.ratio_interval
        if interval is None or {self.timed.conditions, self.base_timed.conditions}.intersection(rows.NOT_A_RESULT):
            return "can't tell"
        low, high = interval
        return "faster" if low > 1 else "slower" if high < 1 else "can't tell"


@dataclass
class Report:
    """Everything that a comparison found."""

    labels: list[str]  # the base's first
    cells: list[Cell]  # of all results, the base's first
    rows: list[Row] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # what can't be compared, a line each
    notes: list[str] = field(default_factory=list)

    @property
    def compared(self) -> list[Row]:
        """The rows with a speed or an AP that could be compared with the base's."""
        return [row for row in self.rows if row.base and (row.base_timed or row.ap_difference is not None)]


def compare(arguments: Sequence[str], annotations: str | None = None) -> Report:
    """Compare results with the first of them.

    ``annotations``: the file that AP was measured on, for the bootstrap; default: where the summaries say, if it is
    still the same. Raises KitError if a file is missing or broken.
    """
    labels = name_arguments(arguments)
    base, *others = (read_cells(*pair) for pair in zip(arguments, labels, strict=True))
    report = Report(labels, [cell for cells in (base, *others) for cell in cells])
    find = functools.cache(functools.partial(find_annotations, given=annotations))
    match = functools.cache(lambda run, image_ids, path: _match(run, image_ids, _read_annotations(path)))
    for cell in base:
        report.rows.append(Row(cell, timed=cell.timed))
        for found in others:
            other = cell_beside(cell, base, found)
            if other:
                report.rows.append(_compare_cells(cell, other, report, find, match))
    for found in others:
        matched = [other for other in found if any(row.cell is other for row in report.rows)]
        left = [f"{cell.precision} batch {cell.batch}" for cell in found if cell not in matched]
        if not matched:
            report.refused.append(f"{found[0].label}: has no precision and batch size of {base[0].label}, but "
                                  f"{', '.join(left)}; measure the same")
        elif left:
            report.notes.append(f"Only in {found[0].label}: {', '.join(left)}")
    return report


def cell_beside(cell: Cell, base: Sequence[Cell], found: Sequence[Cell]) -> Cell | None:
    """The cell of another result that belongs beside the base's: of the same precision and batch size, or the only one
    where both have one."""
    if len(base) == len(found) == 1:
        return found[0]
    return next((other for other in found if (other.precision, other.batch) == (cell.precision, cell.batch)), None)


def _compare_cells(base: Cell, other: Cell, report: Report, find: Callable[..., Path | None],
                   match: Callable[..., Matches]) -> Row:
    row = Row(other, base, other.timed)
    reasons = {mode: incomparable(base.runs[mode], run) for mode, run in other.runs.items() if mode in base.runs}
    if not reasons:
        report.refused.append(f"{other.name}: measures {' and '.join(other.runs)}, {base.label} measures "
                              f"{' and '.join(base.runs)}; measure both in the same mode")
    report.refused += [f"{other.name}: {reason}" for reason in dict.fromkeys(filter(None, reasons.values()))]
    pairs = {mode: (base.runs[mode], other.runs[mode]) for mode, reason in reasons.items() if not reason}
    timed = min((pair for pair in pairs.values() if pair[0].speeds and pair[1].speeds),
                key=lambda pair: pair[0].summary["mode"] == "accuracy", default=None)
    if timed:
        row.base_timed, row.timed = timed
    scored = next((pair for pair in pairs.values() if "AP" in pair[0].summary), None)
    if scored:
        _score_again(row, *scored, report, find, match)
    for pair in pairs.values():
        row.differences |= describe_differences(*pair)
    return row


def incomparable(base: Run, other: Run) -> str:
    """Why two runs of one mode can't be compared; empty if they can."""
    one, two = base.summary, other.summary
    if network(one) != network(two):
        return (f"is another network ({two['engine']['onnx']}, {network(two)[0][:12]}) than the base's "
                f"({one['engine']['onnx']}, {network(one)[0][:12]}); build both engines from one checkpoint")
    if one["mode"] == "throughput":
        base_devices, devices = rows.count_devices(one), rows.count_devices(two)
        return "" if base_devices == devices else (f"--perf_only on {devices} device{'s' * (devices > 1)}, the base on "
                                                   f"{base_devices}; measure both on as many")
    for name, key in _SCORED_ALIKE.items():
        if key(one) != key(two):
            return f"{name}: {key(two)!s:.60}, but {key(one)!s:.60} in the base; score both in the same way"
    return ""


_SCORED_ALIKE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "annotation file": lambda summary: annotation_file(summary)[1], "boxes": boxes_of,
    "flip test": lambda summary: summary["flip_test"], "--limit": lambda summary: summary["limit"],
    "images and persons": lambda summary: (summary["images"], summary["persons"])}
"""What must be equal for two AP to be comparable."""


def ratio_interval(base: Sequence[float], other: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of other's speed over base's, from the speeds of two or more fresh processes each; else None.

    Welch's t interval of the difference of mean logarithms (Welch, Biometrika 34, 1947). Its degrees of freedom are one
    less than the smaller number of processes: with that choice the interval of normal samples covers at least 95 %
    whatever the two variances (Mickey and Brown, Annals of Mathematical Statistics 37, 1966). Fresh processes are the
    unit because runs within one share its memory layout (Kalibera and Jones, Rigorous Benchmarking in Reasonable Time,
    2013). Three processes a side with a spread of 1 % give about 3.5 % on either side.
    """
    least = min(len(base), len(other))
    if least < 2:
        return None
    logs = [np.log(values) for values in (base, other)]
    middle = logs[1].mean() - logs[0].mean()
    half = stdtrit(least - 1, 0.975) * math.sqrt(sum(values.var(ddof=1) / len(values) for values in logs))
    return math.exp(middle - half), math.exp(middle + half)


def describe_differences(base: Run, other: Run) -> dict[str, str]:
    """What differs between two comparable runs and may change the numbers: name -> the base's value -> the other's."""
    one, two = ({
        "precision": rows.precision(run.summary), "batch": run.summary["batch"],
        "runtime": run.summary["engine"]["runtime"], "ONNX file": run.summary["engine"]["onnx_sha256"][:12],
        "kit": run.summary["versions"]["kit"], "timing": run.summary.get("fps_of"), "input": run.summary.get("input"),
        "devices": rows.count_devices(run.summary),
        **{f"version of {name}": version for name, version in run.summary["versions"].items() if name != "kit"},
        **{f"machine's {name}": run.summary["machine"].get(name) for name in _MACHINE},
    } for run in (base, other))
    return {name: f"{one.get(name, 'none')} -> {two.get(name, 'none')}" for name in {**one, **two}
            if one.get(name) != two.get(name)}


def _score_again(row: Row, base: Run, other: Run, report: Report, find: Callable[..., Path | None],
                       match: Callable[..., Matches]) -> None:
    """AP, its interval, and the agreement in pixels, as far as the files are there."""
    row.ap_difference = other.summary["AP"] - base.summary["AP"]
    if not all((run.folder / "keypoints.json").is_file() for run in (base, other)):
        report.notes.append(f"{row.cell.name}: no interval of AP, as keypoints.json is missing beside a summary.json")
        return
    expected, found = (read_results(run.folder / "keypoints.json") for run in (base, other))
    row.agreement = compare_keypoints(expected, found, base.summary["engine"])
    path = find(*annotation_file(base.summary))
    if path is None:
        report.notes.append(f"{row.cell.name}: no interval of AP, as {annotation_file(base.summary)[0]} is missing or "
                            "another file; give --annotations")
        return
    limited = base.summary["limit"] is not None
    image_ids = frozenset(result["image_id"] for result in [*expected, *found]) if limited else None
    row.ap_interval = bootstrap_difference(match(base, image_ids, path), match(other, image_ids, path))


@functools.lru_cache(maxsize=1)
def _read_annotations(path: Path) -> Annotations:
    return read_annotations(path)


def _match(run: Run, image_ids: frozenset[int | str] | None, annotations: Annotations) -> Matches:
    """Score a run's keypoints again. Raises KitError if that doesn't give the AP that its summary has."""
    path = run.folder / "keypoints.json"
    matches = match_images(annotations, read_results(path),
                           list(image_ids or [image["id"] for image in annotations.images]))
    ap = full_ap(matches)
    if abs(ap - run.summary["AP"]) > _AP_TOLERANCE:
        raise KitError(f"{path}: gives AP {ap:.4f}, but the summary.json beside it says {run.summary['AP']:.4f}; "
                       "measure it again")
    return matches


def compare_keypoints(base: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], engine: dict[str, Any]
                      ) -> dict[str, Any]:
    """Distances of other's keypoints from base's in pixels of the crop (see :mod:`rtmpose.data.agreement`).

    Takes results in COCO format of the same boxes, over the persons that both have, and ``engine`` of a summary. Empty
    if they share no person.
    """
    by_box = {(result["image_id"], *result["bbox"]): result for result in base}
    pairs = [(by_box[key], result) for result in other if (key := (result["image_id"], *result["bbox"])) in by_box]
    if not pairs:
        return {}
    expected, found = (np.array([pair[i]["keypoints"] for pair in pairs]).reshape(len(pairs), -1, 3) for i in (0, 1))
    boxes = np.array([result["bbox"] for result, _ in pairs], np.float32)
    boxes[:, 2:] += boxes[:, :2]
    size = (engine["input_size"][0], engine["input_size"][1])
    _, scales = box_to_center_scale(boxes, size)
    distances = crop_distances(found[..., :2], expected[..., :2], scales, size)
    return describe_agreement(distances, expected[..., 2], size[0] / engine["bins"][0])


def exit_code(report: Report, fail_if_slower: bool, fail_if_worse: float | None) -> int:
    """2 if something can't be compared, 3 if AP is lower than allowed, 6 if something is slower, else 0."""
    compared = report.compared
    if fail_if_worse is not None and all(row.ap_difference is None for row in compared):
        raise KitError("--fail_if_worse: no two AP were compared; give summaries of accuracy runs")
    if report.refused:
        return EXIT_USER_ERROR
    if fail_if_worse is not None and any(row.ap_difference is not None and row.ap_difference < -fail_if_worse
                                         for row in compared):
        return EXIT_ACCURACY_MISSED
    return EXIT_SLOWER if fail_if_slower and any(row.verdict == "slower" for row in compared) else EXIT_OK
