"""Small charts as inline SVG: lines over batch sizes, curves, dots and bars. Colours and markers belong to a precision
and are set by page.css, so that they suit a light and a dark page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 30, 46
_ROW, _LABELS = 26, 196
_MARKERS = {"fp32": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0", "fp16": "M-4-4h8v8h-8z", "int8": "M0-5.5l5 9h-10z"}
_OFFSETS = {"fp32": -5, "fp16": 0, "int8": 5}


@dataclass(frozen=True)
class Series:
    """What a chart shows of one precision.

    Attributes:
        style: the precision that was asked for.
        label: the precision for people.
        points: x, y, and where a thin line up from the point ends (y, if there is none).
    """

    style: str
    label: str
    points: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Scale:
    """Where values lie in a picture: from ``low`` at pixel ``start`` to ``high`` at pixel ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * ((value - low) / (high - low) if high > low else 0.5)


def tag(name: str, *content: str, **attributes: object) -> str:
    """An element. Attributes are escaped, the content is markup already; ``class_`` is class, ``_`` becomes ``-``."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
                    for key, value in attributes.items())
    return f"<{name}{given}>{''.join(content)}</{name}>"


def marker(style: str, x: float, y: float, tip: str = "") -> str:
    """A precision's marker, with a text that appears under the mouse."""
    return tag("path", tag("title", escape(tip)), d=_MARKERS[style], class_=f"marker {style}",
               transform=f"translate({x:.1f} {y:.1f})")


def over_batches(series: Sequence[Series], y_title: str, unit: str, log: bool = False, width: int = 480,
                 height: int = 300) -> str:
    """Lines over the batch size, which lies on a logarithmic axis; the markers of one size stand side by side."""
    values = [value for one in series for _, *pair in one.points for value in pair]
    batches = sorted({int(batch) for one in series for batch, *_ in one.points})
    ticks = log_ticks(min(values), max(values)) if log else linear_ticks(0, max(values))
    x = Scale(batches[0], batches[-1], _LEFT + 24, width - _RIGHT - 24, log=True)
    y = Scale(ticks[0], ticks[-1], height - _BOTTOM, _TOP, log)
    parts = [_frame(x, y, batches, ticks, "batch size, logarithmic", y_title, width, height)]
    for one in series:
        placed = [(x(batch) + _OFFSETS[one.style], y(value), y(top)) for batch, value, top in one.points]
        parts.append(_path(one.style, [(left, at) for left, at, _ in placed]))
        parts += [tag("line", x1=left, x2=left, y1=at, y2=top, class_=f"line {one.style}")
                  for left, at, top in placed if top != at]
        parts += [marker(one.style, left, at, f"{one.label}, batch {batch:g}: {value:.4g} {unit}")
                  for (left, at, _), (batch, value, _) in zip(placed, one.points, strict=True)]
    return _svg(width, height, parts, y_title)


def curves(series: Sequence[Series], x_title: str, y_title: str, width: int = 318, height: int = 250) -> str:
    """Curves of percentages over an axis from 0; a marker stands where a curve crosses 50 %."""
    ticks = linear_ticks(0, max(value for one in series for value, *_ in one.points), 4)
    shares = [0, 25, 50, 75, 100]
    x, y = Scale(ticks[0], ticks[-1], _LEFT, width - _RIGHT), Scale(0, 100, height - _BOTTOM, _TOP)
    parts = [_frame(x, y, ticks, shares, x_title, y_title, width, height)]
    for one in series:
        parts.append(_path(one.style, [(x(value), y(share)) for value, share, _ in one.points]))
        parts += [marker(one.style, x(value), y(share), f"{one.label}: median {value:.4g} ms")
                  for value, share, _ in one.points if share == 50]
    return _svg(width, height, parts, x_title)


def dots(series: Sequence[Series], x_title: str, least_span: float, width: int = 480) -> str:
    """A row a precision with a dot a point, over an axis that shows at least ``least_span`` and need not begin at 0."""
    values = [value for one in series for _, value, _ in one.points]
    middle = (min(values) + max(values)) / 2
    ticks = linear_ticks(min(*values, middle - least_span / 2), max(*values, middle + least_span / 2))
    x, y, height = _rows(len(series), ticks, width)
    parts = [_frame(x, y, ticks, [], x_title, "", width, height)]
    for row, one in enumerate(series):
        middle = y(row + 0.5)
        parts.append(_text(x.start - 8, middle + 4, one.label, "end"))
        parts += [marker(one.style, x(value), middle, f"{one.label}, batch {batch:g}: {value:.4f}")
                  for batch, value, _ in one.points]
    return _svg(width, height, parts, x_title)


def bars(rows: Sequence[tuple[str, str, Sequence[float]]], x_title: str, width: int = 480) -> str:
    """A row a ``(style, label, values)``: bars from 0 on top of each other, the first the palest."""
    ticks = linear_ticks(0, max(value for _, _, values in rows for value in values))
    x, y, height = _rows(len(rows), ticks, width)
    parts = [_frame(x, y, ticks, [], x_title, "", width, height)]
    for row, (style, label, values) in enumerate(rows):
        parts.append(_text(x.start - 8, y(row + 0.5) + 4, label, "end"))
        parts += [tag("rect", tag("title", f"{escape(label)}: {value:.3g} %"), x=x(0), width=x(value) - x(0),
                      y=y(row) + 5, height=_ROW - 10, class_=f"bar depth{depth} {style}")
                  for depth, value in enumerate(values)]
    return _svg(width, height, parts, x_title)


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
    first = max(index for index, value in enumerate(values) if value <= low)
    last = min((index for index, value in enumerate(values) if value >= high), default=len(values) - 1)
    return values[first:max(last, first + 1) + 1]


def _rows(number: int, ticks: Sequence[float], width: int) -> tuple[Scale, Scale, int]:
    """Scales for rows under each other, with room for their labels, and the picture's height."""
    height = 12 + number * _ROW + _BOTTOM
    return Scale(ticks[0], ticks[-1], _LABELS, width - 24), Scale(0, number, 12, height - _BOTTOM), height


def _frame(x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], x_title: str, y_title: str,
           width: int, height: int) -> str:
    """Grid, tick labels, and titles with units."""
    left, right, bottom, top = (x.start, x.end, max(y.start, y.end), min(y.start, y.end))
    if y_ticks:
        left, right = _LEFT, width - _RIGHT
    parts = [tag("line", x1=x(tick), x2=x(tick), y1=top, y2=bottom, class_="grid") for tick in x_ticks]
    parts += [tag("line", x1=left, x2=right, y1=y(tick), y2=y(tick), class_="grid") for tick in y_ticks]
    parts.append(tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts += [_text(x(tick), bottom + 16, f"{tick:g}", "middle") for tick in x_ticks]
    parts += [_text(left - 8, y(tick) + 4, f"{tick:g}", "end") for tick in y_ticks]
    parts.append(_text((left + right) / 2, height - 8, x_title, "middle", "title"))
    parts.append(_text(4, 14, y_title, "start", "title"))
    return "".join(parts)


def _svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    return tag("svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img", aria_label=title)


def _path(style: str, points: Sequence[tuple[float, float]]) -> str:
    return tag("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), class_=f"line {style}")


def _text(x: float, y: float, text: str, anchor: str, style: str = "tick") -> str:
    return tag("text", escape(text), x=x, y=y, text_anchor=anchor, class_=style)


def _short(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
