"""A search under Ray Tune: from its first trial, or the first one that is left, to its end."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disttrain.errors import PeerLostError, say
from disttrain.tune.history import Trial
from disttrain.tune.ray_room import Room, check_shared, find_room, nodes_of_cluster
from disttrain.tune.ray_setup import ray_cluster
from disttrain.tune.search import Search
from disttrain.tune.trial_config import run_dirs
from disttrain.tune.watchers import Watchers

_BEYOND_NOTICE_S = 20.0  # until trials that should have saved and left are given up


@dataclass(frozen=True)
class Place:
    """Where a search runs."""

    address: str | None
    """Of a Ray cluster; None for one of this machine alone."""
    preload: Sequence[str]
    """Modules that every rank needs."""
    nodes: int = 1
    """How many nodes the cluster is to have before the search begins."""


def run_search(search: Search, place: Place, watchers: Watchers) -> None:
    """Try points until the search ends, by itself or because it was brought to its end.

    Raises ConfigError where the cluster has no room for a trial, PeerLostError where it is lost.
    """
    settings = search.settings
    with ray_cluster(place.address, place.nodes):
        room = find_room(settings, nodes_of_cluster())
        room = room._replace(trials=min(room.trials, settings.concurrency or room.trials))
        say(str(room))
        if place.address:
            check_shared(search.output.absolute())
        with watchers.interrupts.listening():  # not before: Ray takes signals over when it starts
            _run(search, place, room, watchers)


def _run(search: Search, place: Place, room: Room, watchers: Watchers) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's about itself
        from ray import tune

        from disttrain.tune.ray_points import SearchPoints
        from disttrain.tune.ray_schedulers import build_scheduler
        from disttrain.tune.ray_trial import TrialTask, TrialWorker, kept_checkpoint
        from disttrain.tune.ray_watch import EndOfSearch, Watch

        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        # Some choose themselves which of all trials run in the room that there is.
        concurrency = search.budget if search.settings.scheduler.name in ("hyperband", "pbt", "pb2") else room.trials
        watch = Watch(search, watchers)
        preload = [*place.preload, "torch.distributed.run", "disttrain.launch.agent.elastic"]

        def on_copy(
            number: int, parent: int, values: dict[str, Any], epoch: int, reported: tuple[int, float]
        ) -> TrialTask:
            trial, other = search.history.trials[number], search.history.trials[parent]
            search.report(trial, *reported)
            (run_dir,) = run_dirs(search.output.absolute(), other, 1)
            search.copy(trial, other, values, epoch, kept_checkpoint(run_dir, epoch))
            return make_task(trial)

        def make_task(trial: Trial) -> TrialTask:
            return TrialTask(
                name=trial.name,
                run_dirs=[str(one) for one in run_dirs(search.output.absolute(), trial, search.settings.seeds)],
                metric=search.settings.metric,
                epochs=search.history.starts[trial.start]["base"]["train"]["epochs"],
                after_epoch=trial.epoch,
                ending=str(search.ending_path.absolute()),
                notice_s=search.base.checkpoint.notice_s,
                folder=str(Path.cwd()),
                begin_from=str(search.output.absolute() / trial.checkpoint) if trial.checkpoint else "",
                preload=preload,
                threads=search.base.train.cpu_threads or 1,
                nodes=room.nodes,
                ranks=room.workers,
                bundle=room.bundles[0],
            )

        bundles = tune.PlacementGroupFactory(room.bundles, strategy="STRICT_SPREAD" if room.nodes > 1 else "PACK")
        tuner = tune.Tuner(
            TrialWorker,
            tune_config=tune.TuneConfig(
                search_alg=SearchPoints(search, concurrency, bundles, make_task),
                scheduler=build_scheduler(
                    search.settings,
                    search.base.train.epochs,
                    search.history,
                    search.space,
                    on_copy,
                    waits=room.trials < search.budget,
                ),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=f"search-{time.time_ns()}",
                storage_path=_scratch(),
                verbose=0,
                callbacks=[watch],
                stop=EndOfSearch(search, watch, search.base.checkpoint.notice_s + _BEYOND_NOTICE_S),
                failure_config=tune.FailureConfig(max_failures=3),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        except Exception as error:
            if not search.ending_reason:
                raise PeerLostError(
                    f"Ray has ended: {type(error).__name__}: {next(iter(str(error).splitlines()), '')} What the trials "
                    "have reported is kept: run the same command with --resume."
                ) from error


def _scratch() -> str:
    """Where Tune may write what nobody reads again."""
    import ray

    return str(Path(ray._private.worker._global_node.get_session_dir_path()) / "tune")
