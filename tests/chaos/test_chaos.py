"""Trainings that are killed, frozen, cut off and damaged finish with the weights of the undisturbed run."""

from __future__ import annotations

from pathlib import Path

import pytest

from .outcome import Outcome, render_failures, render_table
from .places import why_not
from .scenario import ACTS, DAMAGES, Place, draw
from .session import run_seeds

# Picked from all seeds so that together they hold every kind of act and damage, and few different configs.
LOCAL = (3, 38, 133, 148, 198, 253, 259, 286, 310, 313, 371, 423, 440)
ELSEWHERE: dict[Place, tuple[int, ...]] = {"small_disk": (26,), "permission": (77,), "clock": (54,), "nodes": (22,)}
LEAST_KILLS = 30


def run(seeds: tuple[int, ...], folder: Path) -> list[Outcome]:
    outcomes = run_seeds(seeds, folder)
    print("\n" + render_table(outcomes))
    if failures := render_failures(outcomes):
        pytest.fail(failures, pytrace=False)
    return outcomes


@pytest.mark.long
def test_a_training_loses_nothing_however_it_is_killed_and_its_checkpoints_are_damaged(tmp_path: Path) -> None:
    outcomes = run(LOCAL, tmp_path)
    assert sum(one.kills for one in outcomes) >= LEAST_KILLS
    elsewhere = {"fill", "forbid", "jump", "cut"}
    assert set.union(*(one.kinds for one in outcomes)) == set(ACTS + DAMAGES) - elsewhere


@pytest.mark.long
@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_training_loses_nothing_when_it_cannot_write_its_clock_jumps_or_its_network_is_cut(
    place: Place, tmp_path: Path
) -> None:
    if reason := why_not(place):
        pytest.skip(reason)
    outcomes = run(ELSEWHERE[place], tmp_path)
    assert {one.scenario.place for one in outcomes} == {place}


def test_a_seed_is_the_same_scenario_again() -> None:
    assert [draw(seed) for seed in range(200)] == [draw(seed) for seed in range(200)]
    assert str(draw(4)) == (
        "local plain x1 every 4 keep 1: kill all @spawned 25, flip(0.310); ask all USR2+USR2 @step 85; kill 0 @step "
        "89, delete_checkpoint(0.882), delete_latest(0.508); kill 0 @spawned 101"
    )
