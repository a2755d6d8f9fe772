"""Results as one HTML file that needs no network: page.html filled with tables, charts and pictures.

A sweep and a comparison have one page. In that of a comparison the cells are of several results.
"""

import base64
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rtmpose.report import charts, compare, summary
from rtmpose.report.charts import Series
from rtmpose.report.compare import Report, incomparable, pair_runs
from rtmpose.report.results import Cell, annotation_file, network
from rtmpose.report.text import describe_conditions

_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                         trim_blocks=True, lstrip_blocks=True)
_LEAST_AP_SPAN = 0.02
_LONGEST_LABEL = 12  # characters of a result's label in a chart


def draw_page(report: Report) -> str:
    """The page of a sweep or a comparison; at least one cell must have been measured."""
    measured = [cell for cell in report.cells if not cell.failure]
    cells = [cell for cell in measured if network(cell.summary) == network(measured[0].summary)]
    runs = [run for cell in cells for run in cell.runs]
    firsts = {label: next(group).summary for label, group in groupby(cells, lambda cell: cell.label)}
    return _TEMPLATES.get_template("page.html").render(
        report=report,
        cells=cells,
        runs=runs,
        machines=_side_by_side("Machine", {label: {**first["machine"], "runtime": first["engine"]["runtime"]}
                                           for label, first in firsts.items()}),
        versions=_side_by_side("Package", {label: first["versions"] for label, first in firsts.items()}),
        otherwise=[cell for cell in cells if any(incomparable(*pair) for pair in pair_runs(cells[0], cell))],
        best=find_best(cells, report.prices),
        model=summary.model_name(runs[0]),
        data_sets=list(dict.fromkeys(
            f"{annotation_file(run)[0]}, {run['persons']} persons in {run['images']} images, {run['boxes']}, "
            f"{'flip test' if run['flip_test'] else 'no flip test'}" for run in runs if run["mode"] == "accuracy")),
        results=[{"Result": cell.label} | row if len(firsts) > 1 else row for cell, row in zip(
            cells, summary.table_rows([cell.summary for cell in cells]), strict=True)],
        asked=any("asked" in summary.precision(run) for run in runs),
        beside=compare.table_rows(report) if report.rows else [],
        notes=[*compare.difference_lines(report), *report.notes],
        files=[{"File": path, "SHA-256": digest} for path, digest in (
            {run["engine"]["onnx"]: run["engine"]["onnx_sha256"] for run in runs} | {
                path: digest for run in runs for path, digest in run["inputs"].items()}).items()],
        pictures=[(group[-1], picture) for group in _by_precision(cells) if (picture := _read_picture(group[-1]))],
        label=_label,
        describe_speed=summary.describe_speed,
        ratio_text=summary.ratio_text,
        is_result=summary.is_result,
        describe_conditions=describe_conditions,
        persons_a_dollar=compare.persons_a_dollar,
        **_draw_charts(cells))


def find_best(cells: Sequence[Cell], prices: dict[str, float]) -> dict[str, Any]:
    """The cells of most persons a second, a joule and a dollar, and FP32 beside the fastest, where there are such; and
    ``ties``, those whose speed can't be told apart from the fastest one's.

    Only among results of what the first cell measures; ``prices`` are in dollars an hour, by label. ``faster`` are
    those that were faster than the fastest in turns, be they results or not.
    """
    alike = [cell for cell in cells if cell.timed and cells[0].timed
             and summary.run_name(cell.timed) == summary.run_name(cells[0].timed)]
    results = [cell for cell in alike if summary.is_result(cell.timed)]
    best, verdicts = summary.find_fastest([cell.timed for cell in alike])
    fastest = next((cell for cell in results if cell.timed is best), None)
    others = [cell for cell in results if cell is not fastest]
    fp32 = [cell for cell in others if fastest
            and (cell.label, cell.precision, cell.batch) == (fastest.label, "fp32", fastest.batch)]
    return {"second": fastest, "fp32": next(iter(fp32), None),
            "faster": [cell for cell, verdict in zip(alike, verdicts, strict=True) if verdict == "faster"],
            "ties": [cell for cell in others if (ratio := compare.speed_ratio(best, cell.timed)).interval
                     and ratio.verdict == "can't tell"],
            "joule": min((cell for cell in results if "energy" in cell.timed),
                         key=lambda cell: cell.timed["energy"]["joules_per_person"], default=None),
            "dollar": max((cell for cell in results if cell.label in prices),
                          key=lambda cell: cell.timed["fps"] / prices[cell.label], default=None)}


def _side_by_side(name: str, parts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each key of any part: the key under ``name``, and its value in each part, None without one."""
    keys = dict.fromkeys(key for part in parts.values() for key in part)
    return [{name: key, **{label: part.get(key) for label, part in parts.items()}} for key in keys]


def _draw_charts(cells: Sequence[Cell]) -> dict[str, Any]:
    """The charts and the cells in them; None or empty where nothing was measured."""
    scored = [cell for cell in cells if cell.accuracy]
    alone = [cell for cell in cells if "percentiles_ms" in cell.throughput]  # LoadGen's runs have none
    compared = [cell for cell in scored if cell.accuracy.get("agreement", {}).get("counted")]
    styles = {cell.precision: [one for one in cells if one.precision == cell.precision] for cell in cells}
    results = {cell.label: [one for one in alone if one.label == cell.label] for cell in alone}
    return {
        "alone": alone,
        "compared": compared,
        "markers": [(charts.marker(style, 8, 8), _precisions(group)) for style, group in styles.items()],
        "ap_chart": charts.dots(_series(scored, lambda cell: (cell.batch, cell.accuracy["AP"])), "AP@0.5:0.95",
                                _LEAST_AP_SPAN) if scored else None,
        "agreement_chart": charts.bars([
            (cell.precision, _label(cell, _LONGEST_LABEL),
             [100 * (1 - cell.accuracy["agreement"][key]) for key in ("within_bin", "within_1px", "within_4px")])
            for cell in compared], "% of keypoints") if compared else None,
        "speed_charts": [(
            label,
            charts.over_batches(_series(group, _fps), "persons a second", "persons a second",
                                span=_series(alone, _fps)),
            charts.over_batches(_series(group, _latency), "ms a batch, logarithmic", "ms", log=True,
                                span=_series(alone, _latency))) for label, group in results.items()],
        "distributions": [
            (label, batch, charts.distribution([_distribution(cell) for cell in group if cell.batch == batch]))
            for label, group in results.items() for batch in sorted({cell.batch for cell in group})]}


def _series(cells: Sequence[Cell], point: Callable[[Cell], tuple[float, ...]]) -> list[Series]:
    """A series for each result and precision: the points of its cells by batch size."""
    return [Series(group[0].precision, _with_result(group[0], _precisions(group), _LONGEST_LABEL),
                   list(map(point, group))) for group in _by_precision(cells)]


def _fps(cell: Cell) -> tuple[float, ...]:
    interval = cell.throughput.get("repeats", {}).get("interval", ())
    return cell.batch, cell.throughput["fps"], *(max(0, end) for end in interval)


def _latency(cell: Cell) -> tuple[float, float, float]:
    return cell.batch, cell.throughput["latency_ms"]["median"], cell.throughput["latency_ms"]["p99"]


def _distribution(cell: Cell) -> Series:
    """Milliseconds and the percentage of batches that took at most as long, up to the 99th percentile."""
    points = [(ms, share) for share, ms in enumerate(cell.throughput["percentiles_ms"][:100])]
    return Series(cell.precision, _precisions([cell]), points)


def _by_precision(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of each result and precision, by batch size."""
    groups: dict[tuple[str, str], list[Cell]] = {(cell.label, cell.precision): [] for cell in cells}
    for cell in sorted(cells, key=lambda cell: cell.batch):
        groups[cell.label, cell.precision].append(cell)
    return list(groups.values())


def _precisions(cells: Sequence[Cell]) -> str:
    return " or ".join(dict.fromkeys(summary.precision(cell.summary) for cell in cells))


def _label(cell: Cell, longest: int = 1000) -> str:
    return _with_result(cell, f"{_precisions([cell])}, batch {cell.batch}", longest)


def _with_result(cell: Cell, text: str, longest: int) -> str:
    """A text below the label of the cell's result, which loses its middle if it is longer than ``longest``."""
    label, half = cell.label, longest // 2
    short = label if len(label) <= longest else f"{label[:half]}…{label[1 - half:]}"
    return f"{short}: {text}" if label else text


def _read_picture(cell: Cell) -> str:
    """The worst and best images of a cell, or the crops that differ most from FP32's, in base64; empty without any."""
    agreement = cell.accuracy.get("agreement")
    path = cell.folder / ("pictures" if agreement is None else "agreement") / "overview.jpg"
    if not path.is_file() or agreement is not None and not agreement.get("max_px"):
        return ""
    return base64.b64encode(path.read_bytes()).decode()
