"""Where trials find room in a cluster, and whether all of its nodes see what they share."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from disttrain.errors import ConfigError
from disttrain.system.waits import announced
from disttrain.tune.search_file import SearchFile


class Room(NamedTuple):
    """How a trial lies in the cluster, and how many find room at a time."""

    trials: int
    nodes: int
    """Of each trial."""
    workers: int
    """On each of these nodes."""
    cpus: float
    """On each of these nodes, for all seeds."""
    gpus: float

    @property
    def bundles(self) -> list[dict[str, float]]:
        """A trial's resources as Ray's placement group has them, node by node."""
        one = {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}
        return [dict(one) for _ in range(self.nodes)]

    def __str__(self) -> str:
        spread = f" on each of {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{self.trials} trials at a time, {self.workers} workers each{spread}"


def find_room(settings: SearchFile, nodes: Sequence[dict[str, float]]) -> Room:
    """A trial lies on one node, or, where none has room for it, evenly on as few as do. `nodes`: what each has.

    Raises ConfigError where there is no such room.
    """
    workers, seeds, each = settings.workers_per_trial, settings.seeds, settings.resources
    counts = [one for one in range(1, len(nodes) + 1) if workers % one == 0] if seeds == 1 else [1]
    for count in counts:
        cpus = workers // count * seeds * each.cpus_per_worker
        gpus = workers // count * seeds * each.gpus_per_worker
        places = [_fits(one, cpus, gpus) for one in nodes]
        if trials := _spread(places, count):
            return Room(trials, count, workers // count, cpus, gpus)
    raise ConfigError(_no_room(settings, nodes))


def _no_room(settings: SearchFile, nodes: Sequence[dict[str, float]]) -> str:
    workers, each = settings.workers_per_trial * settings.seeds, settings.resources
    wants = f"{workers * each.cpus_per_worker:g} CPUs"
    if each.gpus_per_worker:
        wants += f" and {workers * each.gpus_per_worker:g} GPUs"
    where = "on one node"
    if len(nodes) > 1:
        where = "on one node, or evenly on several" if settings.seeds == 1 else "on one node, as trials of seeds do"
    has = ", ".join(f"{one.get('CPU', 0):g} CPUs and {one.get('GPU', 0):g} GPUs" for one in nodes)
    return (
        f"a trial needs {wants} {where}, and there is no such room: the nodes have {has}. Use fewer "
        "--workers-per-trial, fewer seeds, or a smaller resources: {cpus_per_worker: N} in the search file."
    )


def _fits(node: dict[str, float], cpus: float, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) / cpus + 1e-6)
    return min(by_cpu, int(node.get("GPU", 0) / gpus + 1e-6)) if gpus else by_cpu


def _spread(places: Sequence[int], bundles: int) -> int:
    """Trials that fit at once if each takes one place on `bundles` different nodes."""
    if bundles == 1:
        return sum(places)
    count, room = 0, list(places)
    while len(room := sorted((one for one in room if one), reverse=True)) >= bundles:
        room = [one - (at < bundles) for at, one in enumerate(room)]
        count += 1
    return count


def nodes_of_cluster() -> list[dict[str, float]]:
    """What each living node has, by the names of Ray's resources."""
    import ray

    return [one["Resources"] for one in ray.nodes() if one["Alive"]]


def check_shared(folder: Path) -> None:
    """Raise ConfigError where a node of the cluster does not see the search's folder, in which its trials train."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    marker = folder / f".seen-{secrets.token_hex(4)}"
    marker.touch()
    try:
        look = ray.remote(num_cpus=0)(_exists)
        nodes = [one for one in ray.nodes() if one["Alive"]]
        places = [NodeAffinitySchedulingStrategy(one["NodeID"], soft=False) for one in nodes]
        with announced("waiting for all nodes of the Ray cluster to look at the search's folder"):
            seen = ray.get([look.options(scheduling_strategy=one).remote(str(marker)) for one in places])
    finally:
        marker.unlink(missing_ok=True)
    blind = [one["NodeManagerHostname"] for one, sees in zip(nodes, seen, strict=True) if not sees]
    if blind:
        raise ConfigError(
            f"{', '.join(blind)} of the Ray cluster does not see {folder}, in which trials train and from which they "
            "go on elsewhere. Use an --output on a file system that all nodes share, at the same place on each."
        )


def _exists(path: str) -> bool:
    return Path(path).exists()
