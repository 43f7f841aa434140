"""Who draws points: repeatable, complete, and knowing what there was before."""

from __future__ import annotations

from typing import Any

import pytest

from disttrain.config import Config
from disttrain.errors import ConfigError
from disttrain.tune.history import FINISHED, Report, Trial
from disttrain.tune.points import Points, build_points
from disttrain.tune.search_file import build_search
from disttrain.tune.space import Space, parse_space

RANGES: dict[str, Any] = {
    "optim.lr": {"loguniform": [1e-4, 1e-1]},
    "optim.name": {"choice": ["adamw", "sgd"]},
    "optim.momentum": {"uniform": [0.5, 0.9], "when": {"optim.name": "sgd"}},
    "batch.global_batch_size": {"quniform": [32, 128, 32]},
    "data.shift_px": {"randint": [0, 2]},
}
GRID: dict[str, Any] = {"optim.lr": {"grid": [0.1, 0.2, 0.3]}, "optim.name": {"choice": ["adamw", "sgd"]}}


def points(space: dict[str, Any], before: list[Trial] | None = None, **keys: Any) -> tuple[Points, Space]:
    parsed = parse_space(space, Config())
    return build_points(build_search({"space": space, **keys}), parsed, before or []), parsed


def ended(number: int, values: dict[str, Any], value: float) -> Trial:
    return Trial(number, values, 0, FINISHED, [Report(1, value, 1.0)])


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_every_point_lies_in_the_space(searcher: str) -> None:
    drawer, space = points(RANGES, searcher={"name": searcher, "startup_trials": 4})
    drawn = []
    for number in range(12):
        values = drawer.draw(number)
        assert values is not None
        assert space.contains(values), values
        drawer.tell(ended(number, values, values["optim.lr"]))
        drawn.append(values)
    assert len({str(one) for one in drawn}) > 8
    assert {"optim.momentum" in one for one in drawn} == {True, False}


def test_random_point_number_n_is_the_same_in_every_start_and_another_for_another_seed() -> None:
    first, _ = points(RANGES)
    before = [first.draw(number) for number in range(5)]
    again, _ = points(RANGES, [ended(0, {}, 1.0)])
    other, _ = points(RANGES, seed=1)
    assert [again.draw(3), again.draw(4)] == before[3:]
    assert other.draw(3) != before[3]


def test_a_grid_is_gone_through_once_and_goes_on_where_it_was() -> None:
    drawer, _ = points(GRID, searcher="grid")
    all_points = [drawer.draw(number) for number in range(7)]
    assert all_points[6] is None
    assert len({str(one) for one in all_points[:6]}) == 6
    before = [ended(number, one or {}, 0.5) for number, one in enumerate(all_points[:4])]
    rest, _ = points(GRID, before, searcher="grid")
    assert [rest.draw(4), rest.draw(5), rest.draw(6)] == all_points[4:]


def test_grid_fields_in_a_random_search_go_through_their_combinations() -> None:
    space = {"optim.lr": {"grid": [0.1, 0.2]}, "optim.momentum": {"uniform": [0.5, 0.9]}}
    drawer, _ = points(space)
    drawn = [drawer.draw(number) or {} for number in range(4)]
    assert [one["optim.lr"] for one in drawn] == [0.1, 0.2, 0.1, 0.2]
    assert len({one["optim.momentum"] for one in drawn}) == 4


def test_a_grid_search_over_a_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"space optim\.lr is a range"):
        points(RANGES, searcher="grid")


def test_optuna_learns_from_what_the_journal_holds() -> None:
    space = {"optim.lr": {"uniform": [0.0001, 1.0]}}
    before = [ended(number, {"optim.lr": (number + 1) / 31}, -abs((number + 1) / 31 - 0.8)) for number in range(30)]
    drawer, _ = points(space, before, searcher={"name": "optuna", "startup_trials": 5})
    drawn = [(drawer.draw(number) or {})["optim.lr"] for number in range(30, 40)]
    assert sum(abs(one - 0.8) < 0.25 for one in drawn) >= 7, drawn


def test_optuna_passes_over_what_lies_outside_a_narrowed_space() -> None:
    before = [ended(0, {"optim.lr": 0.9}, 1.0), ended(1, {"optim.lr": 0.2}, 0.5)]
    drawer, space = points({"optim.lr": {"uniform": [0.1, 0.3]}}, before, searcher="optuna")
    assert space.contains(drawer.draw(2) or {})
