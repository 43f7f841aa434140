"""Which rank writes which of the tensors that all ranks have alike."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping

MIN_SHARD_BYTES = 64 * 2**20
"""Minimum bytes per shard file: below that, opening another file costs more than it saves."""


def assign_shards(sizes: Mapping[str, int], world_size: int, rank_zero_has: int = 0) -> dict[str, int]:
    """name -> rank: tensors of these sizes in bytes, spread evenly over as many ranks as are worth a file.

    A pure function: every rank that knows the sizes knows who writes what. Rank zero begins with `rank_zero_has` bytes.
    """
    writers = max(1, min(world_size, math.ceil((sum(sizes.values()) + rank_zero_has) / MIN_SHARD_BYTES)))
    loads = [(rank_zero_has if rank == 0 else 0, rank) for rank in range(writers)]
    heapq.heapify(loads)
    assignment = {}
    for name in sorted(sizes, key=lambda one: (-sizes[one], one)):  # the largest first, each to who has least
        load, rank = loads[0]
        assignment[name] = rank
        heapq.heapreplace(loads, (load + sizes[name], rank))
    return assignment
