"""A sweep as one HTML file that needs no network: page.html filled with tables, charts and pictures."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rtmpose.report import charts, summary, text
from rtmpose.report.charts import Series
from rtmpose.report.results import annotation_file
from rtmpose.report.sweep import Cell

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True)
_LEAST_AP_SPAN = 0.02
_SHARES, _DISTANCES = ("within_bin", "within_1px", "within_4px"), ("median_px", "p99_px", "max_px")


def draw_page(cells: Sequence[Cell]) -> str:
    """The page of a sweep; at least one cell must have been measured."""
    measured = [cell for cell in cells if not cell.failure]
    by_precision: dict[str, list[Cell]] = {cell.precision: [] for cell in measured}
    for cell in sorted(measured, key=lambda cell: cell.batch):
        by_precision[cell.precision].append(cell)
    compared = [(cell, cell.accuracy["agreement"]) for cell in measured
                if cell.accuracy.get("agreement", {}).get("counted")]
    first = measured[0].accuracy

    def series(point: Callable[[Cell], tuple[float, ...]]) -> list[Series]:
        return [Series(precision, _precision(group), list(map(point, group)))
                for precision, group in by_precision.items()]

    return TEMPLATES.get_template("page.html").render(
        cells=measured,
        failed=[cell for cell in cells if cell.failure],
        first=first,
        times=sorted(run["measured_at"] for cell in measured for run in (cell.accuracy, cell.throughput)),
        model=summary.model_name(first),
        data_set=annotation_file(first)[0],
        headline=headline(measured),
        rows=summary.table_rows([cell.summary for cell in measured]),
        asked=any("asked" in summary.precision(cell.summary) for cell in measured),
        label=_label,
        conditions=text.describe_conditions,
        markers=[(charts.marker(precision, 8, 8), _precision(group)) for precision, group in by_precision.items()],
        fps_chart=charts.over_batches(series(lambda cell: (cell.batch, cell.throughput["fps"])),
                                      "persons a second", "persons a second"),
        latency_chart=charts.over_batches(series(lambda cell: (
            cell.batch, cell.throughput["latency_ms"]["median"], cell.throughput["latency_ms"]["p99"])),
            "ms a batch, logarithmic", "ms", log=True),
        device_rows=[
            (_label(cell), ranks["world_size"], f"{cell.throughput['fps']:.2f}", f"{min(ranks['fps']):.2f}",
             f"{max(ranks['fps']):.2f}", f"{sum(ranks['alone_fps']):.2f}", f"{ranks['efficiency']:.1%}", ranks["cores"])
            for cell in measured if (ranks := cell.throughput.get("ranks"))],
        distributions={batch: charts.distribution([_distribution(cell) for cell in measured if cell.batch == batch])
                       for batch in sorted({cell.batch for cell in measured})},
        ap_chart=charts.dots(series(lambda cell: (cell.batch, cell.accuracy["AP"])), "AP@0.5:0.95", _LEAST_AP_SPAN),
        agreement_chart=compared and charts.bars(
            [(cell.precision, _label(cell), [100 * (1 - agreement[key]) for key in _SHARES])
             for cell, agreement in compared], "% of keypoints"),
        agreement_rows=[
            (cell.precision, cell.batch, f"{round(agreement['ap_difference'], 4) + 0:+.4f}",
             *(f"{agreement[key]:.2%}" for key in _SHARES), *(f"{agreement[key]:.2f}" for key in _DISTANCES),
             agreement["counted"]) for cell, agreement in compared],
        pictures=[(group[-1], _read_picture(group[-1])) for group in by_precision.values()],
        files={first["engine"]["onnx"]: first["engine"]["onnx_sha256"]} | {
            path: digest for cell in measured for path, digest in cell.accuracy["inputs"].items()})


def headline(cells: Sequence[Cell]) -> str:
    """The fastest cell whose speed is a result, beside FP32 at the same batch size."""
    results = [cell for cell in cells if cell.throughput["conditions"]["verdict"] not in summary.NOT_A_RESULT]
    if not results:
        return "No speed here is a result: the machine was busy or throttled in every cell."
    best = max(results, key=lambda cell: cell.throughput["fps"])
    text = (f"Fastest: {summary.speed(best.throughput)} persons a second in {_label(best)}, with AP "
            f"{best.accuracy['AP']:.3f}")
    base = next((cell for cell in results if (cell.precision, cell.batch) == ("fp32", best.batch)), best)
    if base is best:
        return f"{text}."
    return (f"{text}. FP32 at this batch size: {summary.speed(base.throughput)} persons a second, with AP "
            f"{base.accuracy['AP']:.3f}; that is {best.throughput['fps'] / base.throughput['fps']:.2f} times as fast.")


def _precision(cells: Sequence[Cell]) -> str:
    return " or ".join(dict.fromkeys(summary.precision(cell.summary) for cell in cells))


def _distribution(cell: Cell) -> Series:
    """Milliseconds and the percentage of batches that took at most as long, up to the 99th percentile."""
    points = [(ms, share) for share, ms in enumerate(cell.throughput["percentiles_ms"][:100])]
    return Series(cell.precision, _precision([cell]), points)


def _label(cell: Cell) -> str:
    return f"{_precision([cell])}, batch {cell.batch}"


def _read_picture(cell: Cell) -> str:
    """The worst and best images of a cell, or the crops that differ most from FP32's, in base64; empty without any."""
    agreement = cell.accuracy.get("agreement")
    path = cell.folder / "accuracy" / ("pictures" if agreement is None else "agreement") / "overview.jpg"
    if not path.is_file() or agreement is not None and not agreement.get("max_px"):
        return ""
    return base64.b64encode(path.read_bytes()).decode()
