"""Where trials find room in a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from disttrain.errors import ConfigError
from disttrain.tune.ray_room import Room, find_room
from disttrain.tune.search_file import build_search


def room(*nodes: tuple[int, int], workers: int = 1, seeds: int = 1, **resources: Any) -> Room:
    """For trials on nodes of so many CPUs and GPUs."""
    space = {"optim.lr": {"uniform": [0.1, 0.2]}}
    search = build_search({"space": space, "workers_per_trial": workers, "seeds": seeds, "resources": resources})
    return find_room(search, [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes])


def test_a_trial_lies_on_one_node_where_one_has_room() -> None:
    assert room((4, 0), (3, 0), workers=2) == Room(3, 1, 2, 2.0, 0.0)
    assert room((8, 0), cpus_per_worker=0.5) == Room(16, 1, 1, 0.5, 0.0)
    assert room((64, 8), workers=2, gpus_per_worker=1, cpus_per_worker=4) == Room(4, 1, 2, 8.0, 2.0)
    assert room((8, 0), workers=2, seeds=2) == Room(2, 1, 2, 4.0, 0.0)


def test_a_trial_that_is_too_large_for_any_node_lies_evenly_on_as_few_as_do() -> None:
    assert room((2, 0), (2, 0), (2, 0), (2, 0), workers=4) == Room(2, 2, 2, 2.0, 0.0)
    assert room((2, 0), (2, 0), (2, 0), workers=4) == Room(1, 2, 2, 2.0, 0.0)
    assert room((1, 0), (1, 0), (1, 0), workers=3) == Room(1, 3, 1, 1.0, 0.0)
    assert room((64, 8), (64, 8), (64, 0), workers=16, gpus_per_worker=1).nodes == 2
    assert room((2, 0), (2, 0), workers=4).bundles == [{"CPU": 2.0}, {"CPU": 2.0}]
    assert str(room((2, 0), (2, 0), workers=4)) == "1 trials at a time, 2 workers each on each of 2 nodes"


@pytest.mark.parametrize(
    ("nodes", "options", "says"),
    [
        ([(2, 0)], {"workers": 3}, "needs 3 CPUs on one node, and there is no such room: the nodes have 2 CPUs"),
        ([(2, 0), (2, 0)], {"workers": 3}, "needs 3 CPUs on one node, or evenly on several"),
        ([(2, 0), (2, 0)], {"workers": 2, "seeds": 2}, "needs 4 CPUs on one node, as trials of seeds do"),
        ([(8, 1)], {"workers": 2, "gpus_per_worker": 1}, "needs 2 CPUs and 2 GPUs"),
    ],
)
def test_no_room_is_told_with_what_there_is(nodes: list[tuple[int, int]], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        room(*nodes, **options)
