"""Population-based training: bad trials go on with the weights of good ones, and with other settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pandas as pd
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.schedulers.pb2 import PB2

from disttrain.tune.history import History
from disttrain.tune.ray_trial import EPOCH, VALUE, TrialTask
from disttrain.tune.search_file import SearchFile
from disttrain.tune.space import Space

OnCopy = Callable[[int, int, dict[str, Any], int, tuple[int, float]], TrialTask]
"""Told of trial, parent, the copy's values, the epoch from which it goes on, and the trial's own last epoch and value:
Tune asks its scheduler before it tells anybody of a report."""


class Population(PopulationBasedTraining):
    """Trials among the worst go on with the weights of one among the best, and settings a little beside its own."""

    def __init__(self, settings: SearchFile, space: Space, on_copy: OnCopy, **options: Any) -> None:
        """`on_copy` is told of a copy, and returns the task with which the copy goes on."""
        self._space, self._settings, self._on_copy, self._copies = space, settings, on_copy, 0
        super().__init__(hyperparam_mutations={field: [0] for field in space.domains}, log_config=False, **options)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ray's own would leave the ranges, and give the copy the other's folder."""
        self._copies += 1
        draw = random.Random(f"{self._settings.seed}/{trial.trial_id}/{trial_to_clone.trial_id}/{self._copies}")
        values = {}
        for field, domain in self._space.domains.items():
            is_new = draw.random() < self._resample_probability
            before = trial_to_clone.config[field]
            values[field] = domain.sample(draw) if is_new else domain.perturbed(before, draw)
        return _copied(self, trial, trial_to_clone, values)

    def _summarize_hyperparam_changes(self, *arguments: Any, **options: Any) -> str:
        return ""  # the journal says so


class Bandit(PB2):
    """As `Population`, but a Gaussian process over what settings have brought so far chooses the copy's (Parker-Holder
    et al. 2020). It sees each setting by where it lies in its range, on a logarithmic one by its logarithm."""

    def __init__(self, settings: SearchFile, space: Space, on_copy: OnCopy, **options: Any) -> None:
        """See `Population`."""
        self._space, self._settings, self._on_copy = space, settings, on_copy
        burn_in = options.pop("burn_in_period")  # which PB2 does not take
        super().__init__(hyperparam_bounds={field: [0.0, 1.0] for field in space.domains}, log_config=False, **options)
        self._burn_in_period = burn_in

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Without PB2's own draw of settings that a trial has not."""
        PopulationBasedTraining.on_trial_add(self, tune_controller, trial)

    def remember(self, history: History) -> None:
        """What was reported, with the settings that the trial had at that time, is known on."""
        rows = [
            [trial.name, float(report.epoch), *self._positions(trial.values_at(at)).values(), self._sign(report.value)]
            for trial in history.trials.values()
            for at, report in enumerate(trial.reports)
            if self._space.contains(trial.values_at(at))
        ]
        if rows:
            self.data = pd.DataFrame(rows, columns=["Trial", "Time", *self._space.domains, "Reward"])

    def _sign(self, value: float) -> float:
        return value if self._settings.maximize else -value

    def _positions(self, values: Mapping[str, Any]) -> dict[str, float]:
        return {field: domain.position(values[field]) or 0.0 for field, domain in self._space.domains.items()}

    def _seen(self, trial: Any) -> Any:
        """A trial as PB2 is to see it."""
        return _Seen(trial_id=trial.trial_id, config=self._positions(trial.config))

    def _save_trial_state(self, state: Any, time: int, result: dict[str, Any], trial: Any) -> Any:
        return super()._save_trial_state(state, time, result, self._seen(trial))

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        chosen, _ = super()._get_new_config(self._seen(trial), self._seen(trial_to_clone))
        values = {field: domain.at(chosen[field]) for field, domain in self._space.domains.items()}
        return _copied(self, trial, trial_to_clone, values)

    def _summarize_hyperparam_changes(self, *arguments: Any, **options: Any) -> str:
        return ""


class _Seen(SimpleNamespace):
    def __str__(self) -> str:
        return str(self.trial_id)


def _copied(scheduler: Any, trial: Any, other: Any, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config of a trial that goes on as a copy of another one with these values."""
    own, epoch = scheduler._trial_state[trial].last_result, int(scheduler._trial_state[other].last_result[EPOCH])
    reported = int(own[EPOCH]), float(own[VALUE])
    task = scheduler._on_copy(int(trial.trial_id), int(other.trial_id), values, epoch, reported)
    return {**other.config, **values, "task": task}, {}
