"""A sweep as one HTML file that needs no network: table, charts, pictures, machine and commands."""

import base64
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2

from rtmpose.report import charts, summary
from rtmpose.report.charts import Series, tag
from rtmpose.report.sweep import Cell

_STYLE = Path(__file__).with_name("page.css")
_PICTURE_WIDTH = 1400
_LEAST_AP_SPAN = 0.02


def draw_page(cells: Sequence[Cell]) -> str:
    """The page of a sweep of which at least one cell was measured."""
    measured = [cell for cell in cells if not cell.failure]
    series = Collector(measured)
    title = f"RTMPose sweep: {summary.row(measured[0].summary)[0]}"
    body = [tag("h1", escape(title)), _subtitle(measured), *map(_failure, cells), _results(measured),
            _speed(series), _latencies(series), _accuracy(series, measured), _pictures(series.largest()),
            _machine(measured), _commands(measured)]
    head = [tag("title", escape(title)), '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            tag("style", _STYLE.read_text(encoding="utf-8"))]
    return "<!DOCTYPE html>\n" + tag("html", tag("head", *head), tag("body", *body), lang="en") + "\n"


class Collector:
    """The measured cells by the precision that was asked for, as charts want them."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells
        self._styles = list(dict.fromkeys(cell.precision for cell in cells))

    def of(self, value: Callable[[dict[str, Any]], float], top: Callable[[dict[str, Any]], float] | None = None
           ) -> list[Series]:
        """A series a precision, over the batch size: a value of each summary, and where a thin line up from it ends."""
        top = top or value
        return [Series(style, self.label(style), [(cell.batch, value(cell.summary), top(cell.summary))
                                                  for cell in self._of_style(style)]) for style in self._styles]

    def distributions(self, batch: int) -> list[Series]:
        """Milliseconds and the percentage of batches that took no longer, up to the 99th percentile."""
        return [Series(cell.precision, self.label(cell.precision),
                       [(ms, share, share) for share, ms in enumerate(cell.throughput["percentiles_ms"][:100])])
                for cell in self.cells if cell.batch == batch]

    def batches(self) -> list[int]:
        """All batch sizes."""
        return sorted({cell.batch for cell in self.cells})

    def largest(self) -> list[Cell]:
        """The cell of the largest batch size of each precision."""
        return [max(self._of_style(style), key=lambda cell: cell.batch) for style in self._styles]

    def label(self, style: str) -> str:
        """What the cells of a precision really compute in."""
        return " or ".join(dict.fromkeys(summary.precision(cell.summary) for cell in self._of_style(style)))

    def legend(self) -> str:
        """What the markers mean."""
        keys = (tag("span", tag("svg", charts.marker(style, 8, 8), viewBox="0 0 16 16"), escape(self.label(style)),
                    class_="key") for style in self._styles)
        return tag("p", *keys)

    def _of_style(self, style: str) -> list[Cell]:
        return sorted((cell for cell in self.cells if cell.precision == style), key=lambda cell: cell.batch)


def _subtitle(cells: Sequence[Cell]) -> str:
    accuracy, machine = cells[0].accuracy, cells[0].accuracy["machine"]
    times = sorted(run["measured_at"][:16].replace("T", " ") for cell in cells
                   for run in (cell.accuracy, cell.throughput))
    text = (f"AP of {accuracy['persons']} persons in {accuracy['images']} images, {accuracy['boxes']}, "
            f"{'flip test' if accuracy['flip_test'] else 'no flip test'}. {machine['cpu']}, {machine['cores']} cores, "
            f"{machine['gpu'] or 'no GPU'}. Measured from {times[0]} to {times[-1]} UTC.")
    return tag("p", escape(text), class_="soft")


def _failure(cell: Cell) -> str:
    if not cell.failure:
        return ""
    return tag("p", tag("b", f"{cell.precision}, batch {cell.batch} failed: "), escape(cell.failure), class_="failed")


def _results(cells: Sequence[Cell]) -> str:
    timed = " / ".join(dict.fromkeys(cell.throughput["fps_of"] for cell in cells))
    inputs = " / ".join(dict.fromkeys(cell.throughput["input"] for cell in cells))
    note = (f"FPS is persons a second of the engine alone: {timed}; input: {inputs}. AP is measured in every cell, not "
            "once a precision: another batch size is another engine, with other kernels or even another runtime.")
    rows = [summary.row(cell.summary) for cell in cells]
    return tag("h2", "Results") + table(summary.HEADER, rows, (1, 4, 5, 6)) + tag("p", escape(note), class_="soft")


def _speed(series: Collector) -> str:
    fps = charts.over_batches(series.of(lambda summary: summary["fps"]), "persons a second", "persons a second")
    latency = charts.over_batches(series.of(lambda summary: summary["latency_ms"]["median"],
                                            lambda summary: summary["latency_ms"]["p99"]),
                                  "ms a batch, logarithmic", "ms", log=True)
    spreads = [cell.throughput["spread"] for cell in series.cells]
    note = (f"The times of a cell spread by {min(spreads):.0%} to {max(spreads):.0%} (standard deviation over mean). "
            "Where that is much, the machine was busy with other work too, and cells can't be compared.")
    return tag("h2", "Speed over batch size") + tag("p", note, class_="soft") + series.legend() + tag(
        "div", figure("Throughput", "Persons a second, from the mean time of a batch.", fps),
        figure("Latency", "Median time of a batch; the thin line ends at the 99th percentile.", latency), class_="row")


def _latencies(series: Collector) -> str:
    panels = [figure(f"Batch {batch}", "", charts.curves(series.distributions(batch), "ms a batch", "% of batches"),
                     "third") for batch in series.batches()]
    counts = sorted({cell.throughput["iterations"] for cell in series.cells})
    note = (f"Share of batches that took no longer than so many milliseconds, up to the 99th percentile; markers stand "
            f"at the median. A steep curve is a steady engine. {counts[0]} to {counts[-1]} timed batches a curve.")
    return tag("h2", "Distribution of latency") + tag("p", escape(note), class_="soft") + series.legend() + tag(
        "div", *panels, class_="row")


def _accuracy(series: Collector, cells: Sequence[Cell]) -> str:
    chart = charts.dots(series.of(lambda summary: summary["AP"]), "AP@0.5:0.95", _LEAST_AP_SPAN)
    caption = "One marker a batch size; equal ones cover each other. The axis does not begin at 0."
    bars, details = _agreement(cells)
    return tag("h2", "Accuracy") + tag("div", figure("AP by precision", caption, chart), bars, class_="row") + details


def _agreement(cells: Sequence[Cell]) -> tuple[str, str]:
    """Chart and table of what the other precisions do to FP32's keypoints; empty without FP32."""
    found = [(cell, cell.accuracy["agreement"]) for cell in cells if "agreement" in cell.accuracy]
    found = [(cell, agreement) for cell, agreement in found if agreement["counted"]]
    if not found:
        return "", ""
    bars = [(cell.precision, _name(cell),
             [100 * (1 - agreement[key]) for key in ("within_bin", "within_1px", "within_4px")])
            for cell, agreement in found]
    header = ("Asked", "Batch", "AP \N{MINUS SIGN} AP of fp32", "within a bin", "1 px", "4 px", "median px", "p99 px",
              "worst px", "keypoints")
    rows = [(cell.precision, str(cell.batch), f"{round(agreement['ap_difference'], 4) + 0:+.4f}",
             *(f"{agreement[key]:.2%}" for key in ("within_bin", "within_1px", "within_4px")),
             *(f"{agreement[key]:.2f}" for key in ("median_px", "p99_px", "max_px")), str(agreement["counted"]))
            for cell, agreement in found]
    caption = "Keypoints further from FP32's than a SimCC bin (pale), 1 px, and 4 px (dark)."
    note = ("Each engine against the FP32 engine of its batch size, in pixels of the crop, over the keypoints that "
            "FP32 scores above 0.2.")
    return (figure("Disagreement with FP32", caption, charts.bars(bars, "% of keypoints")),
            table(header, rows, range(1, 10)) + tag("p", note, class_="soft"))


def _pictures(cells: Sequence[Cell]) -> str:
    """Worst and best images, and for an engine that was compared with FP32 the crops that differ most instead."""
    parts = [tag("h2", "Worst and best")]
    for cell in cells:
        name = _name(cell)
        agreement = cell.accuracy.get("agreement")
        if agreement is None:
            parts.append(_picture(cell.folder / "accuracy/pictures/overview.jpg", f"{name}: images beside the truth",
                                  "The two with the worst mean OKS, then the two best; prediction left, truth right."))
        elif agreement.get("max_px"):
            parts.append(_picture(cell.folder / "accuracy/agreement/overview.jpg", f"{name}: crops beside FP32's",
                                  "The ten furthest from FP32, furthest first; this engine left, FP32 right."))
    return "".join(parts)


def _picture(path: Path, title: str, caption: str) -> str:
    """A picture, made smaller, inside the page."""
    pixels = cv2.imread(str(path))
    if pixels is None:
        return ""
    height = round(pixels.shape[0] * _PICTURE_WIDTH / pixels.shape[1])
    small = cv2.resize(pixels, (_PICTURE_WIDTH, height), interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    data = base64.b64encode(encoded.tobytes()).decode()
    image = f'<img alt="{escape(title)}" src="data:image/jpeg;base64,{data}">'
    return figure(title, caption, image)


def _machine(cells: Sequence[Cell]) -> str:
    first = cells[0].accuracy
    engine = first["engine"]
    machine = [(name, str("none" if value is None else value)) for name, value in first["machine"].items()]
    files = {engine["onnx"]: engine["onnx_sha256"]} | {
        path: digest for cell in cells for path, digest in cell.accuracy["inputs"].items()}
    return tag("h2", "Machine, versions and files") + tag(
        "div", table(("Machine", ""), machine), table(("Package", "Version"), first["versions"].items()), class_="row"
    ) + tag("details", tag("summary", "Files and their SHA-256"), table(("File", "SHA-256"), files.items()))


def _commands(cells: Sequence[Cell]) -> str:
    parts = [tag("h2", "Commands")]
    for cell in cells:
        commands = (cell.accuracy["engine"]["command"], cell.accuracy["command"], cell.throughput["command"])
        parts.append(tag("details", tag("summary", _name(cell)),
                         tag("pre", escape("\n\n".join(commands)))))
    return "".join(parts)


def _name(cell: Cell) -> str:
    return f"{summary.precision(cell.summary)}, batch {cell.batch}"


def figure(title: str, caption: str, content: str, style: str = "") -> str:
    """A chart or picture with what it shows above it."""
    heading = tag("h3", escape(title)) if title else ""
    return tag("figure", tag("figcaption", heading, escape(caption)), content, class_=style)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table; the columns ``numbers`` are flushed right."""
    numbers = set(numbers)

    def line(kind: str, cells: Sequence[str]) -> str:
        return tag("tr", *(tag(kind, escape(text), class_="number" if i in numbers else "text")
                           for i, text in enumerate(cells)))

    return tag("div", tag("table", line("th", header), *(line("td", row) for row in rows)), class_="scroll")
