"""Charts as SVG text: no library, no script, readable offline and in print.

Colours are those of `page.STYLE`, as CSS variables, so that a chart fits a dark page and a light one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 28, 42
COLORS = tuple(f"var(--c{number})" for number in range(8))

Points = Sequence[tuple[float, float]]
Place = Callable[[tuple[float, float]], tuple[float, float]]


class Line(NamedTuple):
    """One line of a chart."""

    points: Points
    color: str
    width: float = 1.5
    title: str = ""
    """What a browser shows where the mouse rests on it."""
    is_step: bool = False
    """Each value holds until the next one."""
    marks_end: bool = False
    opacity: float = 1.0
    dots: bool = False
    """A dot at every point."""


class Mark(NamedTuple):
    """Something that happened at a place of the x axis."""

    x: float
    title: str
    color: str = "var(--mark)"


class Range(NamedTuple):
    """What an axis shows, its ends in order."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float], share: float = 0.04) -> Range:
        """All values, and a little more."""
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        margin = (high - low) * share or abs(high) * share or 1.0
        return cls(low - margin, high + margin)

    @classmethod
    def from_zero(cls, values: Sequence[float]) -> Range:
        """From nothing to a little more than the highest value."""
        return cls(0.0, max(values, default=0.0) * 1.05 or 1.0)

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers, about so many."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(one * power for one in (1, 2, 5, 10) if one * power >= rough * 0.9)
        first = math.ceil(self.low / step - 1e-9)
        return [round(at * step, 12) for at in range(first, math.floor(self.high / step + 1e-9) + 1)]


def chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    y_range: Range | None = None,
    x_range: Range | None = None,
    marks: Sequence[Mark] = (),
) -> str:
    """Lines over two axes, and where things happened."""
    x = x_range or Range.around([one for line in lines for one, _ in line.points], 0.02)
    y = y_range or Range.around([one for line in lines for _, one in line.points])
    at = _placing(x, y)
    parts = [*_grid(x, y, at), *_labels(x_label, y_label), *_marks(marks, at, y)]
    for line in lines:
        parts += _line(line, at)
    return _svg(parts, name=f"{y_label} over {x_label}")


def stacked(
    layers: Sequence[tuple[str, str, Points]], x_label: str, y_label: str, x_range: Range, marks: Sequence[Mark] = ()
) -> str:
    """Areas upon each other: (name, colour, points), all at the same places of the x axis."""
    totals = [sum(points[number][1] for _, _, points in layers) for number in range(len(layers[0][2]))]
    ordered = sorted(totals)
    y = Range.from_zero(ordered[: max(1, math.ceil(len(ordered) * 0.98))])  # a lone peak would flatten all others
    at = _placing(x_range, y)
    parts = [*_grid(x_range, y, at), *_labels(x_label, y_label)]
    below = [0.0] * len(totals)
    for name, color, points in layers:
        above = [low + value for low, (_, value) in zip(below, points, strict=True)]
        places = [x for x, _ in points]
        outline = [*zip(places, above, strict=True), *zip(reversed(places), reversed(below), strict=True)]
        corners = _joined([at(one) for one in outline])
        parts.append(f'<polygon points="{corners}" fill="{color}" class="area"><title>{escape(name)}</title></polygon>')
        below = above
    return _svg([*parts, *_marks(marks, at, y)], name=f"{y_label} over {x_label}")


def _placing(x: Range, y: Range) -> Place:
    def at(point: tuple[float, float]) -> tuple[float, float]:
        return (
            _LEFT + x.place(point[0]) * (WIDTH - _LEFT - _RIGHT),
            HEIGHT - _BOTTOM - min(max(y.place(point[1]), 0.0), 1.0) * (HEIGHT - _TOP - _BOTTOM),
        )

    return at


def _line(line: Line, at: Place) -> list[str]:
    places = [at(one) for one in (_steps(line.points) if line.is_step else line.points)]
    title = f"<title>{escape(line.title)}</title>" if line.title else ""
    parts = []
    if len(places) > 1:
        opacity = f' stroke-opacity="{line.opacity:g}"' if line.opacity < 1 else ""
        parts.append(
            f'<polyline points="{_joined(places)}" fill="none" stroke="{line.color}" '
            f'stroke-width="{line.width:g}"{opacity} stroke-linejoin="round">{title}</polyline>'
        )
    dotted = places if line.dots else places[-1:] if line.marks_end or len(places) == 1 else []
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{line.color}">{title}</circle>' for x, y in dotted]
    return parts


def _grid(x: Range, y: Range, at: Place) -> list[str]:
    parts = []
    for tick in y.ticks():
        _, place = at((x.low, tick))
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{place:.1f}" y2="{place:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{place + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    for tick in x.ticks():
        place, _ = at((tick, y.low))
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - _BOTTOM + 17}" text-anchor="middle">{short(tick)}</text>')
    return parts


def short(value: float) -> str:
    """A number as an axis has room for it."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1000:g}k" if abs(value) >= 1e4 else f"{value:g}"


def _labels(x_label: str, y_label: str) -> list[str]:
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    return [
        f'<text x="{middle:g}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="2" y="14" class="name">{escape(y_label)}</text>',
    ]


def _marks(marks: Sequence[Mark], at: Place, y: Range) -> list[str]:
    parts = []
    for one in marks:
        (x, low), (_, high) = at((one.x, y.low)), at((one.x, y.high))
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{high:.1f}" y2="{low:.1f}" stroke="{one.color}" class="mark">'
            f"<title>{escape(one.title)}</title></line>"
        )
    return parts


def parallel(axes: Sequence[tuple[str, str, str]], lines: Sequence[Line], height: int = 340) -> str:
    """Parallel coordinates: `axes` are name, text at the lower and at the upper end; the x of a line's points is the
    number of an axis, their y 0 to 1."""
    width = max(WIDTH, 150 * len(axes))
    inner, top, bottom = width - 140, 34, height - 34

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return 70 + point[0] * inner / max(1, len(axes) - 1), bottom - point[1] * (bottom - top)

    parts = []
    for line in lines:
        title = f"<title>{escape(line.title)}</title>"
        places = _joined([at(one) for one in line.points])
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{line.color}" stroke-width="{line.width:g}" '
            f'stroke-opacity="0.75">{title}</polyline>'
        )
    for number, (name, low, high) in enumerate(axes):
        place, _ = at((number, 0))
        parts += [
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{top}" y2="{bottom}" class="axis"/>',
            f'<text x="{place:.1f}" y="14" text-anchor="middle" class="name">{escape(name)}</text>',
            f'<text x="{place:.1f}" y="{top - 6}" text-anchor="middle">{escape(high)}</text>',
            f'<text x="{place:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(low)}</text>',
        ]
    return _svg(parts, width, height)


def bars(rows: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars: name, length from 0 to 1, text at the end."""
    height = 26 * len(rows) + 8
    left = min(240, 20 + max((8 * len(name) for name, _, _ in rows), default=0))
    parts = []
    for number, (name, share, text) in enumerate(rows):
        y = 26 * number + 4
        length = max(0.0, min(1.0, share)) * (WIDTH - left - 70)
        parts += [
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="18" class="bar"/>',
            f'<text x="{left + length + 6:.1f}" y="{y + 14}">{escape(text)}</text>',
        ]
    return _svg(parts, WIDTH, height)


def color_between(share: float) -> str:
    """From violet (0) over blue and green to yellow (1): all of them seen on a light and on a dark page."""
    stops = [(128, 84, 190), (60, 115, 190), (33, 145, 140), (84, 175, 80), (205, 160, 10)]
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    low = min(int(place), len(stops) - 2)
    mixed = (a + (b - a) * (place - low) for a, b in zip(stops[low], stops[low + 1], strict=True))
    return "#" + "".join(f"{round(one):02x}" for one in mixed)


def _steps(points: Points) -> list[tuple[float, float]]:
    """The same values, each held until the next."""
    found: list[tuple[float, float]] = []
    for x, y in points:
        if found:
            found.append((x, found[-1][1]))
        found.append((x, y))
    return found


def _joined(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _svg(parts: Sequence[str], width: int = WIDTH, height: int = HEIGHT, name: str = "") -> str:
    label = f' aria-label="{escape(name)}"' if name else ""
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"{label}>'
        f"{''.join(parts)}</svg>"
    )
