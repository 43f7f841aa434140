from __future__ import annotations

import pytest

from disttrain.checkpoint import sharding
from disttrain.checkpoint.sharding import MIN_SHARD_BYTES, assign_shards


def test_a_small_state_is_written_by_rank_zero_alone() -> None:
    assert set(assign_shards({"a": 100, "b": MIN_SHARD_BYTES - 100}, world_size=8).values()) == {0}
    assert set(assign_shards({"a": 100, "b": MIN_SHARD_BYTES}, world_size=8).values()) == {0, 1}
    assert assign_shards({}, world_size=3) == {}


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_a_large_state_is_dealt_out_evenly_by_bytes_in_whatever_order_it_comes(
    world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "MIN_SHARD_BYTES", 1000)
    sizes = {f"tensor {n}": 10 + n * n for n in range(60)}
    assignment = assign_shards(sizes, world_size, rank_zero_has=5000)
    assert assignment == assign_shards(dict(reversed(sizes.items())), world_size, rank_zero_has=5000)
    assert assignment.keys() == sizes.keys()
    loads = [sum(sizes[name] for name, to in assignment.items() if to == rank) for rank in range(world_size)]
    loads[0] += 5000
    assert max(loads) - min(loads) <= 100
