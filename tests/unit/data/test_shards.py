"""A global batch in shards: the cut knows the count and the number of shards, and nothing of ranks."""

from __future__ import annotations

import itertools

import pytest

from disttrain.data.shards import ShardedPlan
from disttrain.errors import ConfigError

SHARD_COUNTS = (1, 2, 4, 8, 16)


def plan(samples: int, ranks: int, batch: int, micro: int | None, shards: int) -> ShardedPlan:
    return ShardedPlan.build_sharded(samples, ranks, batch, micro, shards)


def all_shares(one: ShardedPlan) -> list[list[tuple[int, list[range]]]]:
    """Per step the shards of all ranks, in the order of the ranks."""
    return [
        [(share.number, share.micro_ranges) for rank in range(one.world_size) for share in one.shares(step, rank)]
        for step in range(one.steps_per_epoch)
    ]


@pytest.mark.parametrize("shards", SHARD_COUNTS)
def test_shards_and_their_micro_batches_are_the_same_on_any_number_of_ranks(shards: int) -> None:
    for count, micro in itertools.product(range(1, 17), (None, 1, 2, 3)):
        alone = all_shares(plan(count, 1, 16, micro, shards))
        assert [number for number, _ in alone[0]] == list(range(shards))
        for ranks in range(2, shards + 1):
            assert all_shares(plan(count, ranks, 16, micro, shards)) == alone


@pytest.mark.parametrize("shards", SHARD_COUNTS)
def test_every_sample_is_in_one_shard_and_shards_differ_by_one_sample_at_most(shards: int) -> None:
    for count, batch, micro in itertools.product(range(1, 40), (16, 17, 31), (None, 1, 2, 5)):
        one = plan(count, min(3, shards), batch, micro, shards)
        taken: list[int] = []
        for step in all_shares(one):
            sizes = [sum(map(len, micro_ranges)) for _, micro_ranges in step]
            assert max(sizes) - min(sizes) <= 1
            for number, micro_ranges in step:
                assert micro_ranges
                assert all(len(part) <= one.micro_batch_size for part in micro_ranges)
                assert sizes[number] == 0 or all(micro_ranges)  # only an empty shard has an empty micro-batch
                taken += [position for part in micro_ranges for position in part]
        assert taken == list(range(count))


def test_ranks_take_neighbouring_shards_and_nearly_as_many() -> None:
    held = [[share.number for share in plan(80, 3, 40, None, 8).shares(0, rank)] for rank in range(3)]
    assert held == [[0, 1], [2, 3, 4], [5, 6, 7]]


def test_more_ranks_than_shards_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"batch.shards=4 is smaller than world_size=5.*batch.shards=8 or more"):
        plan(100, 5, 50, None, 4)


def test_the_log_says_how_a_step_is_cut() -> None:
    one = plan(8_523, 3, 256, 10, 8)
    assert (one.grad_accum_steps, one.micro_batch_size) == (4, 10)
    assert one.render() == (
        "8,523 training samples = 34 steps/epoch of 256 (the last 75); a step = 8 shard(s) on 3 rank(s), each in 4 "
        "micro-batch(es) of up to 10"
    )
