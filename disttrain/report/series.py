"""Curves that a page has room for: fewer points with the same look, and smoothed ones."""

from __future__ import annotations

from disttrain.report.read import Series
from disttrain.report.svg import Range

_MOST_POINTS = 600


def thinned(series: Series, most: int = _MOST_POINTS) -> Series:
    """At most so many points, with every peak: of each stretch the lowest and the highest, and both ends."""
    if len(series) <= most:
        return series
    stretches = most // 2 - 1
    kept = [series[0]]
    inner = series[1:-1]
    for number in range(stretches):
        part = inner[len(inner) * number // stretches : len(inner) * (number + 1) // stretches]
        ends = {min(part, key=lambda one: one[1]), max(part, key=lambda one: one[1])}
        kept += sorted(ends)
    return [*kept, series[-1]]


def smoothed(series: Series, share: float = 0.02) -> Series:
    """An exponential average over about this share of the points, started at their level."""
    keep = 1 - 1 / max(1.0, len(series) * share)
    total = weight = 0.0
    found = []
    for step, value in series:
        total, weight = keep * total + value, keep * weight + 1
        found.append((step, total / weight))
    return found


def fitting_range(series: list[Series]) -> tuple[Range, bool]:
    """The range of all values, and whether rare ones far above the others are cut off."""
    values = sorted(value for one in series for _, value in one)
    if not values:
        return Range(0.0, 1.0), False
    usual = values[int(0.95 * (len(values) - 1))]
    spread = usual - values[0]
    if values[-1] - values[0] > 6 * spread > 0:
        return Range.around([values[0], values[0] + 2 * spread]), True
    return Range.around(values), False
