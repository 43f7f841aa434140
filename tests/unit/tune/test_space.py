"""The space of a search: what may be varied, within what, and what a mistake is answered with."""

from __future__ import annotations

import random
from typing import Any

import pytest

from disttrain.config import Config, build_config
from disttrain.errors import ConfigError
from disttrain.tune.domains import Domain
from disttrain.tune.space import parse_space, with_values


def refused(raw: dict[str, Any], config: Config | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        parse_space(raw, config or Config())
    return str(error.value)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"speed.of.light": {"choice": [1]}}, "unknown field of the config 'speed.of.light'. Valid: batch."),
        ({"optim.momentun": {"uniform": [0, 0.5]}}, "Did you mean 'optim.momentum'?"),
        ({"lr": {"uniform": [0, 1]}}, "unknown field of the config 'lr'"),
        ({"optim": {"lr": {"uniform": [0, 1]}}}, "unknown field of the config 'optim'"),
        ({"optim.lr": 0.1}, "give a kind of range and its values"),
        ({"optim.lr": {"logunifrom": [1e-3, 1]}}, "Did you mean 'loguniform'?"),
        ({"optim.lr": {"uniform": [0.1, 1], "choice": [1]}}, "give one kind of range"),
        ({"optim.lr": {"uniform": [0.1]}}, "give 2 numbers, [lowest, highest]"),
        ({"optim.lr": {"uniform": [0.1, "1"]}}, "give 2 numbers"),
        ({"optim.lr": {"uniform": [1, 0.1]}}, "the lowest is above the highest"),
        ({"optim.lr": {"loguniform": [0, 0.1]}}, "logarithms need numbers above 0"),
        ({"optim.lr": {"quniform": [0.1, 1, 0]}}, "the step must be above 0"),
        ({"optim.lr": {"choice": []}}, "is empty"),
        ({"optim.lr": {"choice": [0.1, 0.1]}}, "has a value twice"),
        ({"batch.global_batch_size": {"randint": [1, 2.5]}}, "give whole numbers"),
        ({"optim.lr": {"uniform": [0, 0.1]}}, "space optim.lr: the config refuses 0 of uniform: "),
        ({"optim.momentum": {"uniform": [0.5, 1.0]}}, "the config refuses 1.0 of uniform"),
        ({"optim.name": {"choice": ["adamw", "adam"]}}, "the config refuses 'adam' of choice"),
        ({"batch.global_batch_size": {"uniform": [16, 64.5]}}, "the config refuses 64.5"),
        ({"batch.micro_batch_size": {"choice": [512]}}, "is larger than batch.global_batch_size=256"),
        ({"train.epochs": {"choice": [1, 2]}}, "a search does not vary it"),
        ({"data.val_fraction": {"uniform": [0.1, 0.2]}}, "compared on one validation split"),
        ({"train.seed": {"randint": [0, 5]}}, "`seeds: N`"),
        ({}, "space is empty"),
        (
            {"optim.momentum": {"uniform": [0.1, 0.9], "when": {"optim.nam": "sgd"}}},
            "unknown field of the space 'optim.nam'",
        ),
        (
            {
                "optim.name": {"choice": ["adamw"]},
                "optim.momentum": {"uniform": [0.1, 0.9], "when": {"optim.name": "sgd"}},
            },
            "optim.name='sgd' is never drawn",
        ),
        (
            {
                "optim.beta1": {"choice": [0.1], "when": {"optim.beta2": 0.2}},
                "optim.beta2": {"choice": [0.2], "when": {"optim.beta1": 0.1}},
            },
            "wait for each other",
        ),
    ],
)
def test_a_mistake_is_refused_with_its_field_and_rule(raw: dict[str, Any], expected: str) -> None:
    assert expected in refused(raw)


def test_keyword_arguments_of_the_network_can_be_varied() -> None:
    space = parse_space({"model.kwargs.width": {"choice": [8, 16]}}, Config())
    assert with_values(Config(), space.draw(lambda field, domain: domain.values[1])).model.kwargs == {"width": 16}


@pytest.mark.parametrize(
    ("domain", "holds"),
    [
        (Domain("uniform", (0.1, 0.3)), lambda one: 0.1 <= one <= 0.3),
        (Domain("loguniform", (1e-4, 1e-1)), lambda one: 1e-4 <= one <= 1e-1),
        (Domain("randint", (2, 4)), lambda one: one in (2, 3, 4) and isinstance(one, int)),
        (Domain("quniform", (32, 256, 32)), lambda one: one % 32 == 0 and 32 <= one <= 256 and isinstance(one, int)),
        (Domain("quniform", (0.0, 0.5, 0.1)), lambda one: one in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
        (Domain("choice", ("a", None, 3)), lambda one: one in ("a", None, 3)),
    ],
)
def test_what_is_drawn_lies_in_the_domain_and_reaches_all_of_it(domain: Domain, holds: Any) -> None:
    draw = random.Random(1)
    values = [domain.sample(draw) for _ in range(400)]
    assert all(map(holds, values))
    assert all(map(domain.contains, values))
    if domain.kind in ("randint", "choice", "quniform"):
        assert {domain.position(one) for one in values} >= {0.0, 1.0}
    else:
        positions = sorted(domain.position(one) or 0.0 for one in values)
        assert [positions[at] for at in (40, 200, 360)] == pytest.approx([0.1, 0.5, 0.9], abs=0.08)


def test_a_field_is_drawn_only_where_its_condition_holds() -> None:
    raw = {
        "optim.momentum": {"uniform": [0.5, 0.9], "when": {"optim.name": "sgd"}},
        "optim.name": {"choice": ["adamw", "sgd"]},
    }
    space = parse_space(raw, Config())
    draw = random.Random(3)
    points = [space.draw(lambda field, domain: domain.sample(draw)) for _ in range(40)]
    assert {("optim.momentum" in one, one["optim.name"]) for one in points} == {(True, "sgd"), (False, "adamw")}
    assert all(map(space.contains, points))
    assert not space.contains({"optim.name": "adamw", "optim.momentum": 0.6})
    assert not space.contains({"optim.name": "sgd"})


def test_the_cells_of_a_grid_are_all_there_once() -> None:
    raw = {
        "optim.name": {"grid": ["adamw", "sgd"]},
        "optim.lr": {"grid": [0.1, 0.2]},
        "optim.nesterov": {"grid": [True, False], "when": {"optim.name": "sgd"}},
    }
    cells = list(parse_space(raw, Config()).cells())
    assert len(cells) == 2 + 4
    assert {"optim.name": "adamw", "optim.lr": 0.2} in cells


def test_values_that_contradict_each_other_are_refused_when_they_meet() -> None:
    config = build_config({"optim": {"name": "sgd", "nesterov": False}})
    with pytest.raises(ConfigError, match="nesterov"):
        with_values(config, {"optim.momentum": 0.0, "optim.nesterov": True})
