"""One binary tree over the shards of a global batch, and how sums are formed along it.

Floating-point addition is commutative bit by bit, but not associative: which numbers are added to which decides the
last bits, and the direction does not. So every sum over shards is formed along the same tree, whoever holds the
shards: node (level, number) covers the shards from number * 2^level up to (number + 1) * 2^level, and its sum is that
of its two halves. A rank forms the sums of the largest nodes that lie within its shards; the ranks then add these
`roots`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from disttrain.data.shards import rank_shards

T = TypeVar("T")


class Node(NamedTuple):
    """A part of the tree. A leaf, of level 0, is one shard."""

    level: int
    number: int

    @property
    def shards(self) -> range:
        """The shards that it covers."""
        return range(self.number << self.level, (self.number + 1) << self.level)

    @property
    def parent(self) -> Node:
        """The node of which this is one half."""
        return Node(self.level + 1, self.number >> 1)


class TreeSum(Generic[T]):
    """Sums along the tree, from the left to the right: a binary counter of partial sums.

    Of n leaves at most log2(n) + 1 partial sums exist at a time.
    """

    def __init__(self, add: Callable[[T, T], T]) -> None:
        """`add` may put the sum into its first argument, the left half."""
        self._add = add
        self._sums: list[tuple[Node, T]] = []

    def push(self, node: Node, value: T) -> None:
        """The next node to the right. Together with what stands to its left it is added up as far as the tree goes."""
        while node.number % 2 and self._sums and self._sums[-1][0] == (node.level, node.number - 1):
            value = self._add(self._sums.pop()[1], value)
            node = node.parent
        self._sums.append((node, value))

    def pop_all(self) -> list[tuple[Node, T]]:
        """The partial sums that are left, from the left to the right; and begin anew."""
        sums, self._sums = self._sums, []
        return sums


def roots(shards: Iterable[int]) -> list[Node]:
    """The largest nodes of the tree that lie within these neighbouring shards, from the left to the right."""
    tree: TreeSum[None] = TreeSum(lambda left, right: None)
    for shard in shards:
        tree.push(Node(0, shard), None)
    return [node for node, _ in tree.pop_all()]


def roots_by_rank(shard_count: int, world_size: int) -> list[list[Node]]:
    """For every rank the partial sums that it hands to the others. One after the other they cover all shards."""
    return [roots(rank_shards(shard_count, rank, world_size)) for rank in range(world_size)]


def add_roots(values: Iterable[tuple[Node, T]], add: Callable[[T, T], T]) -> T:
    """The sum over all shards, from the roots of all ranks in order. `add` as in `TreeSum`."""
    tree = TreeSum(add)
    for node, value in values:
        tree.push(node, value)
    ((_, total),) = tree.pop_all()
    return total
