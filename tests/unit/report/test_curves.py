"""Curves: thinned, smoothed, drawn."""

from __future__ import annotations

import re

import pytest

from disttrain.report.page import standalone, table
from disttrain.report.series import fitting_range, smoothed, thinned
from disttrain.report.svg import Line, Mark, Range, chart, short


def test_thinning_keeps_both_ends_and_every_peak() -> None:
    series = [(float(step), float(step == 7777) - float(step == 4321)) for step in range(10_000)]
    kept = thinned(series, most=200)
    assert len(kept) <= 200
    assert kept[0] == series[0]
    assert kept[-1] == series[-1]
    assert (7777.0, 1.0) in kept
    assert (4321.0, -1.0) in kept
    assert kept == sorted(kept)


def test_a_short_series_stays_as_it_is() -> None:
    assert thinned([(0.0, 1.0), (1.0, 2.0)]) == [(0.0, 1.0), (1.0, 2.0)]


def test_smoothing_keeps_a_constant_and_does_not_start_at_zero() -> None:
    assert [value for _, value in smoothed([(float(n), 3.0) for n in range(500)])] == pytest.approx([3.0] * 500)


def test_a_lone_peak_is_cut_off_and_told() -> None:
    series = [(float(step), 1.0 + 0.001 * step) for step in range(100)]
    assert not fitting_range([series])[1]
    shown, is_cut = fitting_range([[*series, (100.0, 1e6)]])
    assert is_cut
    assert shown.high < 2


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.0, 10_100.0), (-3e-5, 4e-5), (0.97, 0.99), (5.0, 5e7)])
def test_an_axis_has_a_few_round_ticks_within_its_ends(ends: tuple[float, float]) -> None:
    ticks = Range(*ends).ticks()
    assert 3 <= len(ticks) <= 8
    assert all(ends[0] - 1e-12 <= one <= ends[1] + 1e-12 for one in ticks)
    assert len({short(one) for one in ticks}) == len(ticks)


def test_constant_values_have_an_axis() -> None:
    assert "polyline" in chart([Line([(0.0, 0.0), (1.0, 0.0)], "red")], "step", "loss")


def test_texts_in_a_chart_are_escaped() -> None:
    drawn = chart([Line([(0.0, 1.0), (1.0, 2.0)], "red", title="<a&b>")], "step", "x < y", marks=[Mark(0.5, "<b>")])
    assert "<a&b>" not in drawn
    assert "<b>" not in drawn
    assert "x &lt; y" in drawn


def test_a_chart_outside_of_the_page_has_its_colours_within() -> None:
    drawn = chart([Line([(0.0, 1.0), (1.0, 2.0)], "var(--c0)")], "step", "loss")
    alone = standalone(drawn)
    assert "var(" in drawn
    assert not re.search(r"var\(", alone)


def test_a_table_marks_the_rows_that_differ() -> None:
    drawn = table(("", "a", "b"), [("lr", "1", "2"), ("seed", "0", "0")], ["changed", ""])
    assert drawn.count('<tr class="changed">') == 1
