"""A comparison as one HTML file that needs no network: compare.html filled with headline, table and charts."""

from collections.abc import Callable

from rtmpose.engines.build import PRECISIONS
from rtmpose.report import charts, summary
from rtmpose.report.charts import Series
from rtmpose.report.compare import Report, incomparable
from rtmpose.report.compare_text import lines_below, persons_a_dollar, table_lines
from rtmpose.report.page import TEMPLATES
from rtmpose.report.results import Cell, Run, describe_speed, network

_LONGEST_NAME = 12  # characters of a machine's name beside a bar
_MACHINE = {"cpu": "CPU", "instruction_sets": "instruction sets", "cores": "cores", "gpu": "GPU", "driver": "driver",
            "power_limit_w": "power limit, W", "os": "system"}


def draw_page(report: Report, prices: dict[str, float]) -> str:
    """The page of a comparison; ``prices`` in dollars an hour by label."""
    same = network(report.cells[0].any_run.summary)
    cells = [cell for cell in report.cells if network(cell.any_run.summary) == same]
    by_label = {label: [cell for cell in cells if cell.label == label] for label in report.labels}
    runs = [run.summary for cell in cells for run in cell.runs.values()]
    best = _best(cells, prices)
    styles = sorted({cell.precision for cell in cells}, key=PRECISIONS.index)
    latencies = {label: _latencies(group) for label, group in by_label.items()}
    drawn = [series for group in latencies.values() for series in group]
    return TEMPLATES.get_template("compare.html").render(
        report=report,
        model=summary.model_name(runs[0]),
        times=sorted(run["measured_at"] for run in runs),
        scored=dict.fromkeys(f"AP of {run['persons']} persons in {run['images']} images, {run['boxes']}, "
                             f"{'flip test' if run['flip_test'] else 'no flip test'}."
                             for run in runs if run["mode"] == "accuracy"),
        best=[(name, *tile) for name, tile in best.items() if tile],
        missing=[text for name, text in _MISSING.items() if text and any(best.values()) and not best[name]],
        lines=table_lines(report, prices),
        below=list(lines_below(report)),
        markers=[(charts.marker(style, 8, 8), f"asked: {style}") for style in styles],
        speed_chart=_speed_chart(by_label, styles),
        latency_charts={label: charts.over_batches(group, "ms a batch, logarithmic", "ms", log=True, span=drawn)
                        for label, group in latencies.items() if group},
        machines=_machines(by_label))


_MISSING = {
    "Best persons a second": "",
    "Best persons a joule": "No best per joule: no energy was measured.",
    "Best persons a dollar": "No best per dollar: no price was given (--price NAME=USD_PER_HOUR).",
}
"""Headlines, and what the page says where one is missing."""


def _best(cells: list[Cell], prices: dict[str, float]) -> dict[str, tuple[str, Cell, str] | None]:
    """Figure, cell and note of each headline, over what was measured as the base was, not busy and not throttled."""
    base = cells[0]
    timed = [(cell, cell.timed) for cell in cells if cell.timed and cell.timed.conditions not in summary.NOT_A_RESULT]
    alike = [(cell, run) for cell, run in timed if base.timed and run.mode == base.timed.mode]

    def choose(figure: Callable[[Cell, Run], float | None], text: Callable[[float, Run], str]
               ) -> tuple[str, Cell, str] | None:
        found = [(value, cell, run) for cell, run in alike if (value := figure(cell, run))]
        if not found:
            return None
        value, cell, run = max(found, key=lambda entry: entry[0])
        return text(value, run), cell, _note(base, cell, run)

    figures: tuple[tuple[Callable[[Cell, Run], float | None], Callable[[float, Run], str]], ...] = (
        (lambda cell, run: run.speed, lambda value, run: describe_speed(run)),
        (lambda cell, run: 1 / run.joules if run.joules else None, lambda value, run: f"{value:.4g}"),
        (lambda cell, run: persons_a_dollar(run, prices[cell.label]) if cell.label in prices else None,
         lambda value, run: f"{value:,.0f}"))
    return dict(zip(_MISSING, (choose(*figure) for figure in figures), strict=True))


def _note(base: Cell, cell: Cell, run: Run) -> str:
    alike = all(not incomparable(base.runs[mode], run) for mode, run in cell.runs.items() if mode in base.runs)
    ap = "AP not measured" if cell.ap is None else f"AP {cell.ap:.3f}{'' if alike else ' (scored otherwise)'}"
    conditions = "" if run.conditions == "clean" else f", conditions {run.conditions}"
    return f"{summary.precision(run.summary)}, batch {cell.batch}, {ap}{conditions}"


def _speed_chart(by_label: dict[str, list[Cell]], styles: list[str]) -> str:
    """Each precision of each machine at its fastest batch size; empty if nothing was timed."""
    bars = []
    for label, cells in by_label.items():
        for style in styles:
            timed = [(run.speed, cell, run) for cell in cells if cell.precision == style and (run := cell.timed)]
            if timed:
                speed, cell, run = max(timed, key=lambda entry: entry[0])
                pale = "depth0 " if run.conditions in summary.NOT_A_RESULT else ""
                bars.append((f"{pale}{style}", f"{_shorten(label)}, {style}, batch {cell.batch}", speed, run.interval))
    return charts.bars_with_intervals(bars, "persons a second") if bars else ""


def _shorten(label: str) -> str:
    return label if len(label) <= _LONGEST_NAME else f"{label[:_LONGEST_NAME // 2]}…{label[1 - _LONGEST_NAME // 2:]}"


def _latencies(cells: list[Cell]) -> list[Series]:
    """Median and 99th percentile of the engine alone over the batch size, by precision."""
    points: dict[str, list[tuple[float, ...]]] = {}
    for cell in sorted(cells, key=lambda cell: cell.batch):
        if cell.timed and cell.timed.mode == "engine alone":
            latency = cell.timed.summary["latency_ms"]
            points.setdefault(cell.precision, []).append((cell.batch, latency["median"], latency["p99"]))
    return [Series(style, style, found) for style, found in points.items()]


def _machines(by_label: dict[str, list[Cell]]) -> list[tuple[str, ...]]:
    """A line per property of the machines, and per version of what is beneath the engine."""
    firsts = [cells[0].any_run.summary if cells else None for cells in by_label.values()]
    lines = [(name, *(str(first["machine"].get(key) or "-") if first else "-" for first in firsts))
             for key, name in _MACHINE.items()]
    lines.append(("runtime", *(first["engine"]["runtime"] if first else "-" for first in firsts)))
    return [*lines, ("kit", *(first["versions"]["kit"] if first else "-" for first in firsts))]
