"""Ray's schedulers, and their state as the journal has it."""

from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from disttrain.tune.history import FAILED, History
from disttrain.tune.ray_population import Bandit, OnCopy, Population
from disttrain.tune.ray_trial import EPOCH, VALUE
from disttrain.tune.search_file import SearchFile
from disttrain.tune.space import Space


class Asha(AsyncHyperBandScheduler):
    """Asynchronous successive halving in its stopping form: a trial that reaches a rung is stopped if it is below the
    quantile of those that reached it before; the first at a rung always goes on. (Li et al., MLSys 2020, promote: a
    trial waits at its rung until it belongs to the best of it.)"""

    seed = 0

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Ray draws the bracket from numpy's global generator; here it is the same in every start of a search."""
        state = np.random.get_state()
        np.random.seed(zlib.crc32(f"{self.seed}/{trial.trial_id}".encode()))
        super().on_trial_add(tune_controller, trial)
        np.random.set_state(state)

    def remember(self, history: History) -> None:
        """Fill the rungs with what was reported, in its order."""
        stubs = {one.number: SimpleNamespace(trial_id=one.name) for one in history.trials.values()}
        for stub in stubs.values():
            self.on_trial_add(None, stub)
        reports = [(report, one.number) for one in history.trials.values() for report in one.reports]
        for report, number in sorted(reports, key=lambda one: (one[0].time, one[1])):
            self.on_trial_result(None, stubs[number], {EPOCH: report.epoch, VALUE: report.value})


class Median(MedianStoppingRule):
    """Stops what is, at its best, worse than the median of the running means of the others."""

    def remember(self, history: History) -> None:
        """What was reported by trials that have ended counts on; one that goes on brings its own along."""
        self._past: dict[str, list[dict[str, Any]]] = {}
        for trial in history.trials.values():
            results = [{EPOCH: one.epoch, VALUE: one.value} for one in trial.reports]
            if trial.ended is None:
                self._past[trial.name] = results
            elif results and trial.state != FAILED:
                self._results[SimpleHashable(trial.name)] = results

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """See TrialScheduler."""
        super().on_trial_add(tune_controller, trial)
        if past := self._past.pop(trial.trial_id, None):
            self._results[trial] = past

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        return str(TrialScheduler.CONTINUE)  # Ray would pause it, which costs what it has trained since its checkpoint


class SimpleHashable(str):
    """Stands for a trial of before: a key, and nothing else."""


def build_scheduler(
    settings: SearchFile, epochs: int, history: History, space: Space, on_copy: OnCopy, waits: bool = False
) -> Any:
    """The scheduler of a search whose trials train for so many epochs, with its state rebuilt from the history.

    `waits`: there is no room for all trials of a population at a time. They then wait for each other before they are
    compared: else one that has just had its turn would always beat those that still wait for theirs.
    """
    mode = "max" if settings.maximize else "min"
    common = {"time_attr": EPOCH, "metric": VALUE, "mode": mode}
    chosen = settings.scheduler
    if chosen.name == "asha":
        asha = Asha(
            max_t=epochs,
            grace_period=chosen.grace_epochs,
            reduction_factor=chosen.reduction_factor,
            brackets=chosen.brackets,
            stop_last_trials=False,
            **common,
        )
        asha.seed = settings.seed
        asha.remember(history)
        return asha
    if chosen.name == "median":
        median = Median(
            grace_period=chosen.grace_epochs, min_samples_required=chosen.min_trials, hard_stop=True, **common
        )
        median.remember(history)
        return median
    if chosen.name == "hyperband":
        return HyperBandScheduler(
            max_t=epochs, reduction_factor=chosen.reduction_factor, stop_last_trials=False, **common
        )
    if chosen.name in ("pbt", "pb2"):
        kind = Population if chosen.name == "pbt" else Bandit
        population = kind(
            settings,
            space,
            on_copy,
            perturbation_interval=chosen.perturb_epochs,
            burn_in_period=chosen.grace_epochs,
            quantile_fraction=chosen.quantile,
            synch=waits,
            **common,
        )
        if isinstance(population, Bandit):
            population.remember(history)
        return population
    return FIFOScheduler()
