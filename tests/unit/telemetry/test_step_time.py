"""The table of step times, and the rank that it names."""

from __future__ import annotations

import time

import pytest
import torch

from disttrain.telemetry.phases import PHASES, PhaseTimer
from disttrain.telemetry.step_time import (
    SHOWN_PHASES,
    StepDurations,
    find_slow_rank,
    own_seconds,
    render_step_times,
)


def table(*work: float) -> torch.Tensor:
    """Ranks with this much forward time each; the others wait for the slowest."""
    rows = [[0.1, seconds, 0.1, max(work) - seconds, 0.1] for seconds in work]
    return torch.tensor(rows, dtype=torch.float64)


def test_the_rank_that_the_others_wait_for_is_named() -> None:
    slow = find_slow_rank(table(1.0, 1.1, 2.0, 0.9))
    assert slow is not None
    assert slow[0] == 2
    assert slow[1] == pytest.approx(2.3 / 1.3)


@pytest.mark.parametrize("work", [[1.0], [1.0, 1.0], [1.0, 1.1, 0.9]])
def test_ranks_that_are_about_equally_fast_are_not_called_slow(work: list[float]) -> None:
    assert find_slow_rank(table(*work)) is None


def test_the_table_has_milliseconds_a_step_with_the_busiest_rank_first() -> None:
    text = render_step_times(table(1.0, 3.0), steps=100, epoch=4)
    head, first, second, slow = text.splitlines()
    assert head.split() == ["epoch", "4:", "ms", "per", "step", *SHOWN_PHASES]
    assert first.split() == ["rank", "1", "1.00", "30.00", "1.00", "0.00", "1.00"]
    assert second.split() == ["rank", "0", "1.00", "10.00", "1.00", "20.00", "1.00"]
    assert "rank 1 is slow" in slow
    assert len(head) == len(first) == len(second)


def test_a_large_world_shows_its_busiest_ranks() -> None:
    text = render_step_times(table(*[1.0] * 20), steps=1, epoch=0)
    assert len(text.splitlines()) == 1 + 8 + 1
    assert "12 ranks with less work" in text


def test_a_ledger_adds_up_the_time_of_each_phase() -> None:
    phases = PhaseTimer()
    began = time.monotonic()
    phases.enter("data", 7)
    phases.enter("forward")
    with phases.during("allreduce"):
        assert phases.current.phase == "allreduce"
    assert phases.current[:2] == (7, "forward")
    seconds = phases.take_seconds()
    assert set(seconds) == set(PHASES)
    assert 0 < sum(seconds.values()) <= time.monotonic() - began + 1e-3
    assert len(own_seconds(seconds)) == len(SHOWN_PHASES)
    assert sum(phases.take_seconds().values()) < sum(seconds.values()) + 1e-3


def test_percentiles_are_of_the_steps_since_the_last_line_and_of_all_steps() -> None:
    durations = StepDurations()
    assert (durations.take(), durations.overall()) == ({}, {})
    for milliseconds in range(1, 102):
        durations.add(milliseconds / 1000)
    assert durations.take() == {"p50": 51.0, "p95": 96.0, "max": 101.0}
    durations.add(0.5)
    assert durations.take() == {"p50": 500.0, "p95": 500.0, "max": 500.0}
    overall = durations.overall()
    assert list(overall.values()) == pytest.approx([51.0, 97.0, 101.0], rel=0.02)
