"""The search's trials as Ray Tune takes them: one at a time, when there is room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune import CheckpointConfig, PlacementGroupFactory
from ray.tune.experiment import Trial as RayTrial
from ray.tune.search import SearchAlgorithm

from disttrain.tune.history import Trial
from disttrain.tune.ray_trial import TrialTask
from disttrain.tune.search import Search

_LOST_WORKERS = 3  # of one trial, with its node or alone, until it counts as failed


class SearchPoints(SearchAlgorithm):
    """Hands out what `Search` has next. A trial has the same id in every start of a search: its name."""

    def __init__(self, search: Search, concurrency: int, bundles: Any, make_task: Callable[[Trial], TrialTask]) -> None:
        """`bundles`: the resources of a trial, as Ray's placement group has them; the first holds its worker."""
        self._search, self._concurrency, self._make_task = search, concurrency, make_task
        self._bundles: PlacementGroupFactory = bundles
        self._live: set[str] = set()
        self._experiment: Any = None

    def add_configurations(self, experiments: Any) -> None:
        """See SearchAlgorithm."""
        self._experiment = experiments[0] if isinstance(experiments, list) else experiments

    def next_trial(self) -> RayTrial | None:
        """See SearchAlgorithm."""
        if len(self._live) >= self._concurrency or self._finished:
            return None
        trial = self._search.next_trial()
        if trial is None:
            return None
        self._live.add(trial.name)
        return RayTrial(
            self._experiment.spec["run"],
            config={"task": self._make_task(trial), **trial.values},
            trial_id=trial.name,
            storage=self._experiment.spec["storage"],
            evaluated_params=trial.values,
            experiment_tag=trial.name,
            placement_group_factory=self._bundles,
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            trial_dirname_creator=lambda one: one.trial_id,
            max_failures=_LOST_WORKERS,
        )

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """See SearchAlgorithm."""
        self._live.discard(trial_id)

    def is_finished(self) -> bool:
        """See SearchAlgorithm."""
        return bool(self._finished) or not self._search.has_more
