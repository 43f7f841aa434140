"""Sums along one tree over the shards, whoever holds them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from disttrain.comm.tree import Node, TreeSum, add_roots, roots, roots_by_rank
from disttrain.data.shards import rank_shards

SHARD_COUNTS = (1, 2, 4, 8, 16)
EVERY_SPLIT = [(shards, ranks) for shards in SHARD_COUNTS for ranks in range(1, shards + 1)]


def plus(left: np.float32, right: np.float32) -> np.float32:
    return np.float32(left + right)


def by_the_book(values: np.ndarray) -> np.float32:
    """The sum of the two halves' sums."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return plus(by_the_book(values[:half]), by_the_book(values[half:]))


def over_ranks(values: np.ndarray, world_size: int) -> np.float32:
    """What the ranks find together: each adds up its own shards, then the roots of all are added."""
    handed_over = []
    for rank in range(world_size):
        tree = TreeSum(plus)
        for shard in rank_shards(len(values), rank, world_size):
            tree.push(Node(0, shard), values[shard])
        handed_over += tree.pop_all()
    return add_roots(handed_over, plus)


@pytest.mark.parametrize(("shard_count", "world_size"), EVERY_SPLIT)
def test_the_sum_has_the_same_bits_on_any_number_of_ranks(shard_count: int, world_size: int) -> None:
    draw = np.random.RandomState(shard_count)
    for _ in range(20):
        values = (draw.randn(shard_count) * 10.0 ** draw.randint(-6, 6, shard_count)).astype(np.float32)
        assert over_ranks(values, world_size).tobytes() == by_the_book(values).tobytes()


def test_another_order_gives_other_bits() -> None:
    values = np.random.RandomState(0).randn(16).astype(np.float32)
    from_left = values[0]
    for value in values[1:]:
        from_left = plus(from_left, value)
    assert from_left != by_the_book(values)


@pytest.mark.parametrize(("shard_count", "world_size"), EVERY_SPLIT)
def test_the_roots_of_all_ranks_cover_every_shard_once_and_are_as_large_as_can_be(
    shard_count: int, world_size: int
) -> None:
    by_rank = roots_by_rank(shard_count, world_size)
    assert [shard for found in by_rank for node in found for shard in node.shards] == list(range(shard_count))
    for rank, found in enumerate(by_rank):
        mine = set(rank_shards(shard_count, rank, world_size))
        assert all(not set(node.parent.shards) <= mine for node in found if len(mine) < shard_count)
        assert len(found) <= max(1, 2 * math.log2(shard_count))
    if shard_count % world_size == 0 and (world_size & (world_size - 1)) == 0:
        assert [len(found) for found in by_rank] == [1] * world_size


def test_three_ranks_of_eight_shards() -> None:
    assert roots_by_rank(8, 3) == [[Node(1, 0)], [Node(1, 1), Node(0, 4)], [Node(0, 5), Node(1, 3)]]
    assert roots(range(1, 8)) == [Node(0, 1), Node(1, 1), Node(2, 1)]


@pytest.mark.parametrize("shard_count", SHARD_COUNTS)
def test_few_partial_sums_are_held_at_a_time(shard_count: int) -> None:
    tree: TreeSum[int] = TreeSum(lambda left, right: left + right)
    held = 0
    for shard in range(shard_count):
        tree.push(Node(0, shard), 1)
        held = max(held, len(tree._sums))
    assert held == max(1, math.log2(shard_count))
    assert tree.pop_all() == [(Node(int(math.log2(shard_count)), 0), shard_count)]
    assert tree.pop_all() == []
