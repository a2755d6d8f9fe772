"""Small charts as inline SVG. page.css gives each precision its colour, for a light and a dark page."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from markupsafe import Markup, escape

_WIDTH = 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 30, 46  # margins of charts with two axes
_ROW, _LABELS, _ROWS_TOP = 26, 196, 12  # height of a row, room for its label, margin above the first row
_MARKERS = {"fp32": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0", "fp16": "M-4-4h8v8h-8z", "int8": "M0-5.5l5 9h-10z"}
_OFFSETS = {"fp32": -5, "fp16": 0, "int8": 5}


@dataclass(frozen=True)
class Series:
    """One precision in a chart."""

    style: str  # requested precision
    label: str  # precision for people
    points: Sequence[tuple[float, float]]
    tops: Sequence[float] = ()  # where a thin line up from each point ends


@dataclass(frozen=True)
class Axis:
    """An axis from its first to its last tick; ``start`` and ``end`` are pixels."""

    title: str
    ticks: Sequence[float]
    start: float
    end: float
    inset: float = 0  # pixels between the ends of the axis and the outermost ticks
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log(v) if self.log else v for v in (self.ticks[0], self.ticks[-1], value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + self.inset + (self.end - self.start - 2 * self.inset) * share


def marker(style: str, x: float, y: float, tip: str = "") -> Markup:
    """A precision's marker with a tooltip."""
    return _tag("path", _tag("title", tip), d=_MARKERS[style], class_=f"marker {style}",
                transform=f"translate({x:.1f} {y:.1f})")


def over_batches(series: Sequence[Series], title: str, unit: str, log: bool = False) -> Markup:
    """Lines over the batch size, with the markers of one batch size side by side."""
    height = 300
    batches = sorted({batch for one in series for batch, _ in one.points})
    values = [value for one in series for value in (*one.tops, *(y for _, y in one.points))]
    ticks = log_ticks(min(values), max(values)) if log else linear_ticks(0, max(values))
    x = Axis("batch size, logarithmic", batches, _LEFT, _WIDTH - _RIGHT, inset=24, log=True)
    y = Axis(title, ticks, height - _BOTTOM, _TOP, log=log)
    marks = []
    for one in series:
        offset = _OFFSETS[one.style]
        marks.append(_path(one.style, [(x(batch) + offset, y(value)) for batch, value in one.points]))
        for (batch, value), top in zip_longest(one.points, one.tops):
            left = x(batch) + offset
            if top is not None:
                marks.append(_line(left, y(value), left, y(top), f"line {one.style}"))
            marks.append(marker(one.style, left, y(value), f"{one.label}, batch {batch:g}: {value:.4g} {unit}"))
    return _chart(_WIDTH, height, x, y, marks)


def distributions(series: Sequence[Series], x_title: str, y_title: str) -> Markup:
    """Curves of percentages over milliseconds, with a marker at the median."""
    width, height = 318, 250
    x = Axis(x_title, linear_ticks(0, max(ms for one in series for ms, _ in one.points), 4), _LEFT, width - _RIGHT)
    y = Axis(y_title, [0, 25, 50, 75, 100], height - _BOTTOM, _TOP)
    marks = []
    for one in series:
        marks.append(_path(one.style, [(x(ms), y(share)) for ms, share in one.points]))
        marks += [marker(one.style, x(ms), y(share), f"{one.label}: median {ms:.4g} ms")
                  for ms, share in one.points if share == 50]
    return _chart(width, height, x, y, marks)


def dots(series: Sequence[Series], title: str, least_span: float) -> Markup:
    """A row of markers per precision, over an axis of at least ``least_span`` that need not begin at 0."""
    values = [value for one in series for _, value in one.points]
    middle = (min(values) + max(values)) / 2
    ticks = linear_ticks(min(*values, middle - least_span / 2), max(*values, middle + least_span / 2))
    x = Axis(title, ticks, _LABELS, _WIDTH - 24)
    return _rows(x, [(one.label, [marker(one.style, x(value), 0, f"{one.label}, batch {batch:g}: {value:.4f}")
                                  for batch, value in one.points]) for one in series])


def bars(rows: Sequence[tuple[str, str, Sequence[float]]], title: str) -> Markup:
    """A row per ``(style, label, percentages)``: bars from 0 on top of each other, the first one palest."""
    x = Axis(title, linear_ticks(0, max(value for _, _, values in rows for value in values)), _LABELS, _WIDTH - 24)
    return _rows(x, [(label, [_tag("rect", _tag("title", f"{label}: {value:.3g} %"), x=x(0), width=x(value) - x(0),
                                   y=5 - _ROW / 2, height=_ROW - 10, class_=f"bar depth{depth} {style}")
                              for depth, value in enumerate(values)]) for style, label, values in rows])


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
    first, last = max(bisect_right(values, low) - 1, 0), bisect_left(values, high)
    return values[first:max(last, first + 1) + 1]


def _rows(x: Axis, rows: Sequence[tuple[str, Sequence[Markup]]]) -> Markup:
    """Rows of marks, each mark placed relative to the middle of its row."""
    groups = [_tag("g", _text(x.start - 8, 4, label, "end"), *marks,
                   transform=f"translate(0 {_ROWS_TOP + (index + 0.5) * _ROW})")
              for index, (label, marks) in enumerate(rows)]
    return _chart(_WIDTH, _ROWS_TOP + len(rows) * _ROW + _BOTTOM, x, None, groups)


def _chart(width: int, height: int, x: Axis, y: Axis | None, marks: Sequence[Markup]) -> Markup:
    """Axes and grid, and the marks above them."""
    top, bottom = _TOP if y else _ROWS_TOP, height - _BOTTOM
    frame = [_line(x(tick), top, x(tick), bottom, "grid") for tick in x.ticks]
    frame += [_text(x(tick), bottom + 16, f"{tick:g}", "middle") for tick in x.ticks]
    if y:
        frame += [_line(x.start, y(tick), x.end, y(tick), "grid") for tick in y.ticks]
        frame += [_text(x.start - 8, y(tick) + 4, f"{tick:g}", "end") for tick in y.ticks]
        frame.append(_text(4, 14, y.title, "start", "title"))
    frame += [_line(x.start, bottom, x.end, bottom, "axis"),
              _text((x.start + x.end) / 2, height - 8, x.title, "middle", "title")]
    return _tag("svg", *frame, *marks, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img",
                aria_label=y.title if y else x.title)


def _path(style: str, points: Sequence[tuple[float, float]]) -> Markup:
    return _tag("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), class_=f"line {style}")


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return _tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def _text(x: float, y: float, text: str, anchor: str, style: str = "tick") -> Markup:
    return _tag("text", text, x=x, y=y, text_anchor=anchor, class_=style)


def _tag(name: str, *content: str, **attributes: str | float) -> Markup:
    """An element; ``class_`` stands for class, another ``_`` for ``-``."""
    given = Markup().join(Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value))
                          for key, value in attributes.items())
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, Markup().join(content))


def _short(value: str | float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
