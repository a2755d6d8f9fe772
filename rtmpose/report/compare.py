"""Comparison of results, of one machine or of several: which is faster, by how much, and what that does to AP."""

import functools
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rtmpose.data.agreement import crop_distances, describe_agreement
from rtmpose.data.annotations import read_annotations
from rtmpose.data.preprocess import box_to_center_scale
from rtmpose.errors import EXIT_ACCURACY_MISSED, EXIT_OK, EXIT_SLOWER, EXIT_USER_ERROR, KitError
from rtmpose.evaluate.repeats import students_t
from rtmpose.report import summary as rows
from rtmpose.report.bootstrap import Matches, bootstrap_difference, full_ap, match_images, read_keypoints
from rtmpose.report.results import Cell, annotation_file, boxes_of, find_annotations, network
from rtmpose.report.text import describe_conditions
from rtmpose.turns import Ratio

_AP_TOLERANCE = 1e-4  # keypoints.json may order persons of equal scores differently
_MACHINE = ("cpu", "instruction_sets", "cores", "gpu", "driver", "power_limit_w", "persistence_mode", "mig_mode", "os")


@dataclass
class Row:
    """A cell beside the base's cell; what couldn't be compared is None or empty."""

    cell: Cell
    base: Cell | None = None  # None in the base's own row
    timed: dict[str, Any] = field(default_factory=dict)  # the summary whose speed is shown
    ratio: float | None = None  # that speed over the base's
    ratio_interval: tuple[float, float] | None = None  # 95 %, if both were repeated
    verdict: str = "base"  # else faster, slower, can't tell, or - without a ratio
    ap_difference: float | None = None
    ap_interval: tuple[float, float] | None = None  # 95 %
    agreement: dict[str, Any] = field(default_factory=dict)
    differences: dict[str, str] = field(default_factory=dict)  # name: text


@dataclass
class Report:
    """Cells, and everything that a comparison found."""

    cells: list[Cell]  # of all results, the base's first
    prices: dict[str, float] = field(default_factory=dict)  # dollars an hour, by label
    rows: list[Row] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # what can't be compared, a line each
    notes: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """The results' names, the base's first."""
        return list(dict.fromkeys(cell.label for cell in self.cells))


def compare(results: Sequence[list[Cell]], annotations: str | None = None, prices: dict[str, float] | None = None
            ) -> Report:
    """Compare results with the first of them, cell by cell of one precision and batch size; or the only cells.

    ``annotations``: the file that AP was measured on, for the bootstrap; default: where the summaries say, if it is
    still the same. Raises KitError if a file is missing or broken, or nothing can be compared.
    """
    base, *others = results
    report = Report([cell for cells in results for cell in cells], prices or {})
    for cell in base:
        report.rows.append(Row(cell, timed=cell.timed))
        for found in others:
            alone = len(base) == len(found) == 1
            report.rows += [_compare_cells(cell, other, report, annotations) for other in found
                            if alone or (other.precision, other.batch) == (cell.precision, cell.batch)]
    for found in others:
        left = [cell for cell in found if not any(row.cell is cell for row in report.rows)]
        names = ", ".join(f"{cell.precision} batch {cell.batch}" for cell in left)
        if len(left) == len(found):
            report.refused.append(f"{found[0].label}: has no precision and batch size of {base[0].label}, but {names}; "
                                  "measure the same")
        elif left:
            report.notes.append(f"Only in {found[0].label}: {names}")
    if report.refused and all(row.ratio is None and row.ap_difference is None for row in report.rows):
        raise KitError("; ".join(report.refused))
    return report


def pair_runs(base: Cell, other: Cell) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The runs of two cells that measure the same, except perhaps their speed."""
    return [(one, two) for one in base.runs for two in other.runs
            if (one["mode"], one.get("scenario")) == (two["mode"], two.get("scenario"))]


def _compare_cells(base: Cell, other: Cell, report: Report, annotations: str | None) -> Row:
    row, refused, pairs = Row(other, base, other.timed, verdict="-"), [], pair_runs(base, other)
    if not pairs:
        measured, expected = (" and ".join(map(rows.run_name, cell.runs)) for cell in (other, base))
        same = other.summary["engine"]["sha256"] == base.summary["engine"]["sha256"]
        refused.append(f"measures {measured}, {base.label} measures {expected}"
                       f"{'' if same else ' of a different engine'}; measure both in the same mode, or an accuracy and "
                       "a throughput run of one engine")
    for one, two in pairs:
        if reason := incomparable(one, two):
            refused.append(reason)
            continue
        if "fps" in two and rows.run_name(one) == rows.run_name(two):  # that of a throughput run, the last, counts
            ratio, paired = speed_ratio(one, two), rows.ratio_of_rounds(one, two)  # in turns, whatever moved both
            row.timed, row.ratio, row.ratio_interval = two, ratio.value, ratio.interval
            row.verdict = ratio.verdict if paired or rows.is_result(one) and rows.is_result(two) else "can't tell"
        if "AP" in two:
            _score_again(row, base, report, annotations)
        row.differences |= describe_differences(one, two)
    report.refused += dict.fromkeys(f"{other.name}: {reason}" for reason in refused)
    return row


def incomparable(one: dict[str, Any], two: dict[str, Any]) -> str:
    """Why a run of the base and another that measures the same can't be compared; empty if they can."""
    if network(one) != network(two):
        return (f"is another network ({two['engine']['onnx']}, {network(two)[0][:12]}) than the base's "
                f"({one['engine']['onnx']}, {network(one)[0][:12]}); build both engines from one checkpoint")
    expected, found = map(_terms, (one, two))
    return next((f"{name}: {found[name]!s:.60}, but {expected[name]!s:.60} in the base; measure both in the same way"
                 for name in expected if found[name] != expected[name]), "")


def _terms(run: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for two speeds of one engine alone, or for two AP, to be comparable."""
    if run["mode"] == "throughput":
        return {"devices": rows.count_devices(run)}
    return {"annotation file": annotation_file(run)[1], "boxes": boxes_of(run), "flip test": run["flip_test"],
            "--limit": run["limit"], "images and persons": (run["images"], run["persons"])}


def speed_ratio(base: dict[str, Any], other: dict[str, Any]) -> Ratio:
    """The ratio of two speeds: round by round if they took turns, else from the processes of each."""
    return rows.ratio_of_rounds(base, other) or Ratio(other["fps"] / base["fps"], ratio_interval(
        *(run.get("repeats", {}).get("values", [run["fps"]]) for run in (base, other))))


def ratio_interval(base: Sequence[float], other: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of other's speed over base's, from the speeds of two or more fresh processes each; else None.

    Welch's t interval of the difference of mean logarithms, with one degree of freedom less than the smaller number of
    processes: so it covers at least 95 %, whatever the variances (Mickey, Brown, Annals of Mathematical Statistics 37,
    1966).
    """
    least = min(len(base), len(other))
    if least < 2:
        return None
    logs = [np.log(values) for values in (base, other)]
    middle = logs[1].mean() - logs[0].mean()
    half = students_t(least - 1) * math.sqrt(sum(values.var(ddof=1) / len(values) for values in logs))
    return math.exp(middle - half), math.exp(middle + half)


def describe_differences(base: dict[str, Any], other: dict[str, Any]) -> dict[str, str]:
    """What differs between two comparable runs and may change the numbers: name -> the base's value -> the other's."""
    one, two = ({
        "precision": rows.precision(run), "batch": run["batch"],
        "runtime": run["engine"]["runtime"], "ONNX file": run["engine"]["onnx_sha256"][:12],
        "kit": run["versions"]["kit"], "timing": run.get("fps_of"), "input": run.get("input"),
        "devices": rows.count_devices(run),
        **{f"version of {name}": version for name, version in run["versions"].items() if name != "kit"},
        **{f"machine's {name}": run["machine"].get(name) for name in _MACHINE},
    } for run in (base, other))
    return {name: f"{one.get(name, 'none')} -> {two.get(name, 'none')}" for name in {**one, **two}
            if one.get(name) != two.get(name)}


def _score_again(row: Row, base: Cell, report: Report, given: str | None) -> None:
    """AP, its interval, and the agreement in pixels, as far as the files are there."""
    row.ap_difference = row.cell.accuracy["AP"] - base.accuracy["AP"]
    files = [cell.folder / "keypoints.json" for cell in (base, row.cell)]
    if not all(file.is_file() for file in files):
        report.notes.append(f"{row.cell.name}: no interval of AP, as keypoints.json is missing beside a summary.json")
        return
    expected, found = map(read_keypoints, files)
    row.agreement = compare_keypoints(expected, found, base.accuracy["engine"])
    path, digest = annotation_file(base.accuracy)
    annotations = find_annotations(path, digest, given)
    if annotations is None:
        report.notes.append(f"{row.cell.name}: no interval of AP, as {path} is missing or another file; give "
                            "--annotations")
        return
    limited = base.accuracy["limit"] is not None
    image_ids = frozenset(result["image_id"] for result in [*expected, *found]) if limited else None
    row.ap_interval = bootstrap_difference(_match(files[0], base.accuracy["AP"], image_ids, annotations),
                                           _match(files[1], row.cell.accuracy["AP"], image_ids, annotations))


@functools.cache
def _match(path: Path, expected: float, image_ids: frozenset[int | str] | None, annotations: Path) -> Matches:
    """Score a ``keypoints.json`` again. Raises KitError if that doesn't give the AP that its summary has."""
    known = _read_annotations(annotations)
    matches = match_images(known, read_keypoints(path), list(image_ids or [image["id"] for image in known.images]))
    ap = full_ap(matches)
    if abs(ap - expected) > _AP_TOLERANCE:
        raise KitError(f"{path}: gives AP {ap:.4f}, but the summary.json beside it says {expected:.4f}; measure it "
                       "again")
    return matches


_read_annotations = functools.lru_cache(maxsize=1)(read_annotations)


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
    differences = [row.ap_difference for row in report.rows if row.ap_difference is not None]
    if fail_if_worse is not None and not differences:
        raise KitError("--fail_if_worse: no two AP were compared; give summaries of accuracy runs")
    if report.refused:
        return EXIT_USER_ERROR
    if fail_if_worse is not None and min(differences) < -fail_if_worse:
        return EXIT_ACCURACY_MISSED
    return EXIT_SLOWER if fail_if_slower and any(row.verdict == "slower" for row in report.rows) else EXIT_OK


def report_text(report: Report) -> str:
    """The comparison as Markdown; of one result, its table."""
    if len(report.labels) == 1:
        return rows.table(*(cell.summary for cell in report.cells))
    lines = [*(f"Not compared: {line}" for line in report.refused), *difference_lines(report)]
    lines += [f"{row.cell.name}: {describe_conditions(row.timed['conditions'])}" for row in report.rows
              if row.timed and not rows.is_result(row.timed)]
    lines += report.notes
    return rows.markdown(table_rows(report)) + "\n" * bool(lines) + "".join(f"\n- {line}" for line in lines)


def table_rows(report: Report) -> list[dict[str, str]]:
    """The rows of the table, without the columns that are empty."""
    texts = [_text_row(row, report.prices.get(row.cell.label)) for row in report.rows]
    return [{name: text[name] for name in text if any(other[name] != "-" for other in texts)} for text in texts]


def _text_row(row: Row, price: float | None) -> dict[str, str]:
    """A row's texts by column; a dash where there is none."""
    run, agreement, summary = row.timed, row.agreement, row.cell.summary
    names = dict.fromkeys("versions" if name.startswith("version of") else name.replace("machine's ", "")
                          for name in row.differences)
    return {
        "Result": row.cell.label,
        "Precision": rows.precision(summary),
        "Batch": str(row.cell.batch),
        "Persons a second": rows.describe_speed(run) if run else "-",
        "Ratio [95 %]": rows.figure(row.ratio, ".3f", row.ratio_interval),
        "Verdict": row.verdict,
        "AP": rows.figure(summary.get("AP"), ".4f"),
        "AP difference [95 %]": rows.figure(row.ap_difference, "+z.4f", row.ap_interval),
        "Keypoints: at most one bin off, p99": (f"{agreement['within_bin']:.2%}, {agreement['p99_px']:.2f} px"
                                                if agreement.get("counted") else "-"),
        "J a person": rows.figure(rows.joules(run), ".3g"),
        "Persons a dollar": rows.figure(persons_a_dollar(run, price), ",.0f"),
        "Conditions": run["conditions"]["verdict"] if run else "-",
        "Differs in": ", ".join(names) or "-",
    }


def persons_a_dollar(run: dict[str, Any], price: float | None) -> float | None:
    """Persons for one dollar at ``price`` dollars an hour; None without a price or a speed."""
    return run["fps"] * 3600 / price if run and price else None


def difference_lines(report: Report) -> list[str]:
    """What differs between the results, in full; the cells of a sweep mostly differ alike."""
    return list(dict.fromkeys(
        f"{row.cell.label} differs from {row.base.label}: "
        + "; ".join(f"{name} {change}" for name, change in row.differences.items())
        for row in report.rows if row.base and row.differences))


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
