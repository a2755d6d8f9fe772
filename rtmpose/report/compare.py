"""Comparison of results, of one machine or of several: which is faster, by how much, and what that does to AP."""

import functools
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from rtmpose.data.agreement import crop_distances, describe_agreement
from rtmpose.data.annotations import Annotations, read_annotations
from rtmpose.data.preprocess import box_to_center_scale
from rtmpose.errors import EXIT_ACCURACY_MISSED, EXIT_OK, EXIT_SLOWER, EXIT_USER_ERROR, KitError
from rtmpose.evaluate.bootstrap import Matches, bootstrap_difference, full_ap, match_images, read_results
from rtmpose.files import read_json, read_sealed, sha256
from rtmpose.report import summary as rows
from rtmpose.report.schema import check_summary

HEADER = ("Result", "Precision", "Batch", "Persons a second", "Ratio [95 %]", "Verdict", "AP", "AP difference [95 %]",
          "Keypoints: at most one bin off, p99", "J a person", "Persons a dollar", "Conditions", "Differs in")
_AP_TOLERANCE = 1e-4  # keypoints.json may order persons of equal scores differently
_MACHINE = ("cpu", "cores", "gpu", "driver", "power_limit_w", "persistence_mode", "mig_mode", "os")


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
        alike = devices(one) == devices(two)
        return "" if alike else (f"--perf_only on {devices(two)} device{'s' * (devices(two) > 1)}, the base on "
                                 f"{devices(one)}; measure both on as many")
    for name, key in _SCORED_ALIKE.items():
        if key(one) != key(two):
            return f"{name}: {key(two)!s:.60}, but {key(one)!s:.60} in the base; score both in the same way"
    return ""


def devices(summary: dict[str, Any]) -> int:
    """Number of devices that a speed is of."""
    return int(summary.get("ranks", {}).get("world_size", 1))


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


def boxes_of(summary: dict[str, Any]) -> str:
    """SHA-256 of a detector's boxes, or "ground-truth boxes"."""
    return summary["inputs"].get(summary["boxes"].removeprefix("boxes of "), summary["boxes"])


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
        "devices": devices(run.summary),
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


def find_annotations(path: str, digest: str, given: str | None) -> Path | None:
    """The annotation file with a digest. Raises KitError if ``given`` is another one."""
    if given is not None:
        if sha256(given) != digest:
            raise KitError(f"--annotations {given}: is another file than AP was measured on (SHA-256 {digest[:12]}...)")
        return Path(given)
    return Path(path) if Path(path).is_file() and sha256(path) == digest else None


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


def report_text(report: Report, prices: dict[str, float]) -> str:
    """The comparison as Markdown: the table, and what must be said below it."""
    below = "".join(f"\n- {line}" for line in lines_below(report))
    refused = "".join(f"\n- Not compared: {line}" for line in report.refused)
    return rows.markdown(table_lines(report, prices)) + (f"\n{refused}{below}" if refused or below else "")


def table_lines(report: Report, prices: dict[str, float]) -> list[list[str]]:
    """The table, its header first, without the columns that are empty; ``prices`` in dollars an hour by label."""
    lines = [_text_row(row, prices.get(row.cell.label)) for row in report.rows]
    kept = [i for i in range(len(HEADER)) if any(line[i] != "-" for line in lines)]
    return [[line[i] for i in kept] for line in (HEADER, *lines)]


def _text_row(row: Row, price: float | None) -> tuple[str, ...]:
    run, agreement = row.timed, row.agreement
    ap = row.cell.ap
    names = dict.fromkeys("versions" if name.startswith("version of") else name.replace("machine's ", "")
                          for name in row.differences)
    return (
        row.cell.label,
        rows.precision(row.cell.any_run.summary),
        str(row.cell.batch),
        describe_speed(run) if run else "-",
        with_interval(row.ratio, row.ratio_interval, ".3f"),
        row.verdict,
        "-" if ap is None else f"{ap:.4f}",
        with_interval(row.ap_difference, row.ap_interval, "+.4f"),
        f"{agreement['within_bin']:.2%}, {agreement['p99_px']:.2f} px" if agreement.get("counted") else "-",
        f"{run.joules:.3g}" if run and run.joules else "-",
        f"{persons_a_dollar(run, price):,.0f}" if run and price else "-",
        run.conditions if run else "-",
        ", ".join(names) or "-",
    )


def describe_speed(run: Run) -> str:
    """Persons a second with their interval, and what was timed unless it is the engine alone."""
    text = rows.speed(run.summary)
    return text if run.mode == "engine alone" else f"{text} ({run.mode})"


def with_interval(value: float | None, interval: tuple[float, float] | None, form: str) -> str:
    """A number and its interval as text."""
    if value is None:
        return "-"
    text = format(round(value, 6) + 0, form)
    return text if interval is None else f"{text} [{interval[0]:{form}}, {interval[1]:{form}}]"


def persons_a_dollar(run: Run, price: float) -> float:
    """Persons for one dollar at ``price`` dollars an hour."""
    return run.speed * 3600 / price


def lines_below(report: Report) -> Iterator[str]:
    """What stands below the table: differences in full, reasons of bad conditions, notes."""
    yield from dict.fromkeys(  # the cells of a sweep mostly differ alike
        f"{row.cell.label} differs from {row.base.label}: "
        + "; ".join(f"{name} {change}" for name, change in row.differences.items())
        for row in report.rows if row.base and row.differences)
    for row in report.rows:
        if row.timed and row.timed.conditions in rows.NOT_A_RESULT:
            reasons = "; ".join(row.timed.summary["conditions"]["reasons"])
            yield f"{row.cell.name}: {row.timed.conditions}, not a result: {reasons}"
    yield from report.notes


def parse_prices(options: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Dollars an hour by label, of ``--price NAME=USD_PER_HOUR``. Raises KitError if one is not of that form."""
    prices = {}
    for option in options:
        label, _, number = option.rpartition("=")
        try:
            price = float(number)
        except ValueError:
            price = 0.0
        if label not in labels or not 0 < price < 1e6:
            raise KitError(f"--price {option}: expected NAME=USD_PER_HOUR with a price above 0 and a NAME of "
                           f"{', '.join(map(shlex.quote, labels))}")
        prices[label] = price
    return prices
