"""A sweep as one HTML file that needs no network: page.html filled with tables, charts and pictures."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rtmpose.report import charts, summary
from rtmpose.report.charts import Series
from rtmpose.report.sweep import Cell

_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                         trim_blocks=True, lstrip_blocks=True)
_PICTURE_WIDTH = 1400
_LEAST_AP_SPAN = 0.02
_SHARES = ("within_bin", "within_1px", "within_4px")


def draw_page(cells: Sequence[Cell]) -> str:
    """The page of a sweep; at least one cell must have been measured."""
    measured = [cell for cell in cells if not cell.failure]
    by_precision: dict[str, list[Cell]] = {}
    for cell in measured:
        by_precision.setdefault(cell.precision, []).append(cell)
    for group in by_precision.values():
        group.sort(key=lambda cell: cell.batch)
    compared = [cell for cell in measured if cell.accuracy.get("agreement", {}).get("counted")]
    first = measured[0].accuracy
    return _TEMPLATES.get_template("page.html").render(
        cells=measured,
        failed=[cell for cell in cells if cell.failure],
        compared=compared,
        agreement_rows=[_agreement_row(cell) for cell in compared],
        first=first,
        times=sorted(run["measured_at"] for cell in measured for run in (cell.accuracy, cell.throughput)),
        header=summary.HEADER,
        rows=[summary.row(cell.summary) for cell in measured],
        label=_label,
        markers=[(charts.marker(precision, 8, 8), _labels(group)) for precision, group in by_precision.items()],
        pictures=[(group[-1], _read_picture(group[-1])) for group in by_precision.values()],
        files={first["engine"]["onnx"]: first["engine"]["onnx_sha256"]} | {
            path: digest for cell in measured for path, digest in cell.accuracy["inputs"].items()},
        **_draw_charts(by_precision, compared))


def _draw_charts(by_precision: dict[str, list[Cell]], compared: Sequence[Cell]) -> dict[str, Any]:
    fps, latency, ap = [], [], []
    curves: dict[int, list[Series]] = {}
    for style, cells in by_precision.items():
        label = _labels(cells)
        fps.append(Series(style, label, [(cell.batch, cell.throughput["fps"]) for cell in cells]))
        latency.append(Series(style, label, [(cell.batch, cell.throughput["latency_ms"]["median"]) for cell in cells],
                              [cell.throughput["latency_ms"]["p99"] for cell in cells]))
        ap.append(Series(style, label, [(cell.batch, cell.accuracy["AP"]) for cell in cells]))
        for cell in cells:
            points = [(ms, share) for share, ms in enumerate(cell.throughput["percentiles_ms"][:100])]
            curves.setdefault(cell.batch, []).append(Series(style, label, points))
    off = [(cell.precision, _label(cell), [100 * (1 - cell.accuracy["agreement"][key]) for key in _SHARES])
           for cell in compared]
    return {
        "fps_chart": charts.over_batches(fps, "persons a second", "persons a second"),
        "latency_chart": charts.over_batches(latency, "ms a batch, logarithmic", "ms", log=True),
        "curves": {batch: charts.distributions(curves[batch], "ms a batch", "% of batches") for batch in sorted(curves)},
        "ap_chart": charts.dots(ap, "AP@0.5:0.95", _LEAST_AP_SPAN),
        "agreement_chart": charts.bars(off, "% of keypoints") if off else "",
    }


def _agreement_row(cell: Cell) -> list[str]:
    agreement = cell.accuracy["agreement"]
    return [cell.precision, str(cell.batch), f"{round(agreement['ap_difference'], 4) + 0:+.4f}",
            *(f"{agreement[key]:.2%}" for key in _SHARES),
            *(f"{agreement[key]:.2f}" for key in ("median_px", "p99_px", "max_px")), str(agreement["counted"])]


def _labels(cells: Sequence[Cell]) -> str:
    """The precision that cells compute in, for people."""
    return " or ".join(dict.fromkeys(summary.precision(cell.summary) for cell in cells))


def _label(cell: Cell) -> str:
    return f"{summary.precision(cell.summary)}, batch {cell.batch}"


def _read_picture(cell: Cell) -> str | None:
    """The worst and best images of a cell, or where it was compared the crops that differ most, as a data URI."""
    agreement = cell.accuracy.get("agreement")
    if agreement is not None and not agreement.get("max_px"):
        return None
    folder = "pictures" if agreement is None else "agreement"
    pixels = cv2.imread(str(cell.folder / "accuracy" / folder / "overview.jpg"))
    if pixels is None:
        return None
    height = round(pixels.shape[0] * _PICTURE_WIDTH / pixels.shape[1])
    small = cv2.resize(pixels, (_PICTURE_WIDTH, height), interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
