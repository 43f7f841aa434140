"""Who draws the points of a search: at random, all of a grid, or Optuna."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from typing import Any, Protocol

from disttrain.errors import ConfigError
from disttrain.tune.domains import Domain
from disttrain.tune.history import FAILED, Trial
from disttrain.tune.search_file import SearchFile
from disttrain.tune.space import Space


class Points(Protocol):
    """Draws one point after the other, and is told what came of each."""

    def draw(self, number: int) -> dict[str, Any] | None:
        """The values of point `number`, None where there is no other point."""

    def tell(self, trial: Trial) -> None:
        """A trial has ended, or had before a search was resumed."""


def build_points(search: SearchFile, space: Space, before: Iterable[Trial]) -> Points:
    """The search's own drawer, which knows the trials that there were before. Raises ConfigError."""
    before = list(before)
    if search.searcher.name == "optuna":
        return OptunaPoints(search, space, before)
    if search.searcher.name == "grid" and not space.is_finite:
        field = next(name for name, one in space.domains.items() if not one.is_list)
        raise ConfigError(f"searcher=grid, but space {field} is a range. Give a list (grid), or use searcher: random.")
    return RandomPoints(search.seed, space, before, once=search.searcher.name == "grid")


class RandomPoints:
    """Point N is a function of seed, space and N. `grid` fields go through all their combinations, one a point."""

    def __init__(self, seed: int, space: Space, before: Iterable[Trial], once: bool = False) -> None:
        """`once`: no combination a second time; those that were drawn `before` count."""
        self._seed, self._space, self._once = seed, space, once
        self._cells = list(space.cells()) if once else list(_grid_of(space).cells())
        seen = [one.values for one in before]
        self._left = [cell for cell in self._cells if cell not in seen] if once else []

    def draw(self, number: int) -> dict[str, Any] | None:
        """See `Points`."""
        if self._once:
            return self._left.pop(0) if self._left else None
        generator = random.Random(f"{self._seed}/{number}")  # a text: the same on every version and machine
        cell = self._cells[number % len(self._cells)]

        def suggest(field: str, domain: Domain) -> Any:
            return cell[field] if field in cell else domain.sample(generator)

        return self._space.draw(suggest)

    def tell(self, trial: Trial) -> None:
        """Nothing is learnt."""


def _grid_of(space: Space) -> Space:
    grid = {name: one for name, one in space.domains.items() if one.kind == "grid"}
    outside = [name for one in grid.values() for name, _ in one.when if name not in grid]
    if outside:
        raise ConfigError(f"space: a grid's `when` names {outside[0]}, which is not a grid. Use choice for both.")
    return Space(grid)


class OptunaPoints:
    """Optuna's TPE sampler, asked and told. What it knows is what the journal holds; it stores nothing itself."""

    def __init__(self, search: SearchFile, space: Space, before: Iterable[Trial]) -> None:
        """Raises ConfigError where Optuna is not installed, or the space has a grid."""
        for field, domain in space.domains.items():
            if domain.kind == "grid":
                raise ConfigError(f"space {field} is a grid, and searcher=optuna chooses itself. Use choice.")
        try:
            import optuna
        except ImportError:
            raise ConfigError("searcher=optuna needs Optuna: pip install 'disttrain[tune]'") from None
        optuna.logging.set_verbosity(logging.WARNING)
        self._space, self._optuna = space, optuna
        before = list(before)
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=search.searcher.startup_trials,
            seed=(search.seed + len(before)) % 2**32,
            constant_liar=True,  # a point that is being tried counts as a bad one: its neighbours are not tried too
        )
        self._study = optuna.create_study(sampler=sampler, direction="maximize" if search.maximize else "minimize")
        self._asked: dict[int, Any] = {}
        for trial in before:
            if trial.value is not None and trial.state != FAILED and space.contains(trial.values):
                self._add(trial)

    def _add(self, trial: Trial) -> None:
        given = {field: self._distribution(self._space.domains[field]) for field in trial.values}
        values = {field: _to_optuna(self._space.domains[field], one) for field, one in trial.values.items()}
        frozen = self._optuna.trial.create_trial(params=values, distributions=given, value=trial.value)
        self._study.add_trial(frozen)

    def _distribution(self, domain: Domain) -> Any:
        kinds = self._optuna.distributions
        if domain.is_list:
            return kinds.CategoricalDistribution(list(range(len(domain.values))))
        if domain.kind in ("randint", "quniform"):
            return kinds.IntDistribution(*_whole_range(domain))
        return kinds.FloatDistribution(*domain.values, log=domain.kind == "loguniform")

    @staticmethod
    def _ask(asked: Any, field: str, domain: Domain) -> Any:
        if domain.is_list:
            return asked.suggest_categorical(field, list(range(len(domain.values))))
        if domain.kind in ("randint", "quniform"):
            return asked.suggest_int(field, *_whole_range(domain))
        return asked.suggest_float(field, *domain.values, log=domain.kind == "loguniform")

    def draw(self, number: int) -> dict[str, Any] | None:
        """See `Points`."""
        asked = self._asked[number] = self._study.ask()

        def suggest(field: str, domain: Domain) -> Any:
            return _from_optuna(domain, self._ask(asked, field, domain))

        return self._space.draw(suggest)

    def tell(self, trial: Trial) -> None:
        """See `Points`. A failed trial tells nothing about its surroundings."""
        asked = self._asked.pop(trial.number, None)
        if asked is None:
            return
        if trial.value is None or trial.state == FAILED:
            self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(asked, trial.value)


def _whole_range(domain: Domain) -> tuple[int, int]:
    return (0, domain.step_count) if domain.kind == "quniform" else (domain.values[0], domain.values[1])


def _to_optuna(domain: Domain, value: Any) -> Any:
    if domain.is_list:
        return domain.values.index(value)
    if domain.kind == "quniform":
        return round((value - domain.values[0]) / domain.values[2])
    return value


def _from_optuna(domain: Domain, value: Any) -> Any:
    if domain.is_list:
        return domain.values[value]
    if domain.kind == "quniform":
        return domain.on_step(value)
    return value if domain.kind == "randint" else domain.rounded(value)
