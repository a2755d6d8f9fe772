"""Small charts as inline SVG. page.css gives each precision its colour, for a light and a dark page."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

# Pixels: a chart and a small chart, the margins, a row, its bar and the room for its label.
_WIDTH, _HEIGHT, _SMALL_WIDTH, _SMALL_HEIGHT = 480, 300, 318, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 20, 30, 46
_ROW, _BAR, _LABEL, _ROWS_TOP = 26, 16, 196, 12
_MARKERS = {"fp32": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0", "fp16": "M-4-4h8v8h-8z",
            "bf16": "M0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z", "int8": "M0-5.5l5 9h-10z"}
_OFFSETS = {"fp32": -6, "fp16": -2, "bf16": 2, "int8": 6}


@dataclass(frozen=True)
class Series:
    """One precision in a chart."""

    style: str  # requested precision
    label: str  # precision for people
    points: Sequence[tuple[float, ...]]  # x, y, and in over_batches the ends of a thin line through that


@dataclass(frozen=True)
class Axis:
    """An axis that shows its first to its last tick."""

    title: str
    ticks: Sequence[float]
    start: float  # pixel
    end: float  # pixel
    inset: float = 0  # pixels between the ends of the axis and the outermost ticks
    log: bool = False
    names: Sequence[str] = ()  # texts of the ticks, if not their numbers

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log(v) if self.log else v for v in (self.ticks[0], self.ticks[-1], value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + self.inset + (self.end - self.start - 2 * self.inset) * share

    def labels(self) -> Iterator[tuple[float, str]]:
        """Pixel and text of each tick."""
        return zip(map(self, self.ticks), self.names or [f"{tick:g}" for tick in self.ticks], strict=True)


def marker(style: str, x: float, y: float, tip: str = "") -> Markup:
    """A precision's marker with a tooltip."""
    mark = Markup('<path class="marker {}" d="{}" transform="translate({:.1f} {:.1f})"><title>{}</title></path>')
    return mark.format(style, _MARKERS[style], x, y, tip)


def over_batches(series: Sequence[Series], title: str, unit: str, log: bool = False, span: Sequence[Series] = ()
                 ) -> Markup:
    """Lines over the batch size, with the markers of one batch size side by side.

    The axes span the points of ``span``, so that several charts can have the same; by default, of ``series``.
    """
    values = [value for one in span or series for _, *pair in one.points for value in pair]
    ticks = log_ticks(min(values), max(values)) if log else linear_ticks(0, max(values))
    batches = sorted({batch for one in span or series for batch, *_ in one.points})
    x = Axis("batch size, logarithmic", batches, _LEFT, _WIDTH - _RIGHT, inset=24, log=True)
    y = Axis(title, ticks, _HEIGHT - _BOTTOM, _TOP, log=log)
    marks = []
    for one in series:
        style, offset = f"line {one.style}", _OFFSETS[one.style]
        marks.append(_line(style, *((x(batch) + offset, y(value)) for batch, value, *_ in one.points)))
        for batch, value, *ends in one.points:
            left = x(batch) + offset
            marks += [_line(f"thin {style}", (left, y(value)), (left, y(end))) for end in ends]
            marks.append(marker(one.style, left, y(value), f"{one.label}, batch {batch:g}: {value:.4g} {unit}"))
    return _chart(x, y, marks)


def distribution(series: Sequence[Series]) -> Markup:
    """Percentage of batches over the milliseconds that they took, with a marker at the median."""
    longest = max(ms for one in series for ms, _ in one.points)
    x = Axis("ms a batch", linear_ticks(0, longest, 4), _LEFT, _SMALL_WIDTH - _RIGHT)
    y = Axis("% of batches", [0, 25, 50, 75, 100], _SMALL_HEIGHT - _BOTTOM, _TOP)
    marks = []
    for one in series:
        marks.append(_line(f"line {one.style}", *((x(ms), y(share)) for ms, share in one.points)))
        marks += [marker(one.style, x(ms), y(share), f"{one.label}: median {ms:.4g} ms")
                  for ms, share in one.points if share == 50]
    return _chart(x, y, marks)


def dots(series: Sequence[Series], title: str, least_span: float) -> Markup:
    """A row of markers per precision, over an axis of at least ``least_span`` that need not begin at 0."""
    values = [value for one in series for _, value in one.points]
    middle = (min(values) + max(values)) / 2
    ticks = linear_ticks(min(*values, middle - least_span / 2), max(*values, middle + least_span / 2))
    x, y = Axis(title, ticks, _LABEL, _WIDTH - _RIGHT), _rows([one.label for one in series])
    return _chart(x, y, [marker(one.style, x(value), y(row), f"{one.label}, batch {batch:g}: {value:.4f}")
                         for row, one in enumerate(series) for batch, value in one.points])


def bars(rows: Sequence[tuple[str, str, Sequence[float]]], title: str) -> Markup:
    """A row per ``(style, label, percentages)``: bars from 0 on top of each other, the first one palest."""
    bar = Markup('<rect class="bar depth{} {}" x="{:g}" y="{:g}" width="{:.1f}" height="{}"><title>{}</title></rect>')
    ticks = linear_ticks(0, max(value for _, _, values in rows for value in values))
    x, y = Axis(title, ticks, _LABEL, _WIDTH - _RIGHT), _rows([label for _, label, _ in rows])
    return _chart(x, y, [bar.format(depth, style, x(0), y(row) - _BAR / 2, x(value) - x(0), _BAR,
                                    f"{label}: {value:.3g} %")
                         for row, (style, label, values) in enumerate(rows) for depth, value in enumerate(values)])


def linear_ticks(low: float, high: float, number: int = 5) -> list[float]:
    """About ``number`` round values, the first not above ``low`` and the last not below ``high``."""
    rough = (high - low or abs(high) or 1) / number
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values of a logarithmic axis, the first not above ``low`` and the last not below ``high``."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) < 5 else (1,)
    values = [float(f"{factor}e{power}") for power in powers for factor in factors]
    first = max(value for value in values if value <= low)
    last = min(value for value in values if value >= high and value > first)
    return [value for value in values if first <= value <= last]


def _rows(names: Sequence[str]) -> Axis:
    return Axis("", range(len(names)), _ROWS_TOP, _ROWS_TOP + len(names) * _ROW, inset=_ROW / 2, names=names)


def _chart(x: Axis, y: Axis, marks: Sequence[Markup]) -> Markup:
    """Grid, axes with their titles, and the marks on top."""
    bottom = max(y.start, y.end)
    parts = [_text(4, 14, y.title, "start", "title"),
             _text((x.start + x.end) / 2, bottom + _BOTTOM - 8, x.title, "middle", "title")]
    for at, label in x.labels():
        parts += [_line("grid", (at, y.start), (at, y.end)), _text(at, bottom + 16, label, "middle")]
    for at, label in y.labels():
        parts += [_line("grid", (x.start, at), (x.end, at)), _text(x.start - 8, at + 4, label, "end")]
    parts.append(_line("axis", (x.start, bottom), (x.end, bottom)))
    svg = Markup('<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">{3}</svg>')
    return svg.format(x.end + _RIGHT, bottom + _BOTTOM, y.title or x.title, Markup().join([*parts, *marks]))


def _line(style: str, *points: tuple[float, float]) -> Markup:
    return Markup('<path class="{}" d="M{}"></path>').format(style, "L".join(f"{x:.1f} {y:.1f}" for x, y in points))


def _text(x: float, y: float, text: str, anchor: str, style: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(style, x, y, anchor, text)
