"""Sums over the shards of all ranks: slices to everybody, added in the order of the tree, and gathered."""

from __future__ import annotations

import torch
import torch.distributed as dist

from disttrain.comm.tree import add_roots, roots_by_rank
from disttrain.data.shards import rank_shards


class TreeExchange:
    """What one rank does for the part of the tree above the ranks.

    A rank is responsible for one slice of the values: it receives that slice of every root, adds them in the order of
    the tree, and sends the sum to everybody. Where each rank has one root, these are the bytes of a ring allreduce.
    """

    def __init__(self, shard_count: int, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.shards = rank_shards(shard_count, rank, world_size)
        """The shards that this rank takes."""
        self._roots_by_rank = roots_by_rank(shard_count, world_size)
        self.roots = self._roots_by_rank[rank]
        """The nodes whose sums this rank hands over."""

    def buffers(self, length: int, like: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Memory for sums of `length` values: one flat tensor for each of `roots`, and one to receive slices in.

        They are longer than `length` by what the world size needs to divide them; that part is never looked at.
        """
        size = -(-length // self.world_size)
        sums = [torch.zeros(size * self.world_size, dtype=like.dtype, device=like.device) for _ in self.roots]
        others = sum(map(len, self._roots_by_rank)) - len(self.roots)
        return sums, torch.empty(size * others, dtype=like.dtype, device=like.device)

    @torch.no_grad()
    def add_up(self, sums: list[torch.Tensor], received: torch.Tensor) -> None:
        """Put the sum over all shards into `sums[0]`. Called on every rank, with what `buffers` gave."""
        if self.world_size == 1:
            return
        size = len(sums[0]) // self.world_size
        slices = [[one[at : at + size] for at in range(0, len(one), size)] for one in sums]
        arriving = iter(received.split(size))
        values = [
            [one[self.rank] for one in slices] if rank == self.rank else [next(arriving) for _ in roots]
            for rank, roots in enumerate(self._roots_by_rank)
        ]
        self._exchange([[one[rank] for one in slices] for rank in range(self.world_size)], values)
        nodes = [node for roots in self._roots_by_rank for node in roots]
        flat = [value for of_rank in values for value in of_rank]
        total = add_roots(zip(nodes, flat, strict=True), torch.Tensor.add_)
        whole = slices[0]
        if total is not whole[self.rank]:
            whole[self.rank].copy_(total)
        self._exchange([[whole[self.rank]]] * self.world_size, [[part] for part in whole])

    def _exchange(self, sent: list[list[torch.Tensor]], received: list[list[torch.Tensor]]) -> None:
        """To and from every other rank, in place: torch's all-to-all and all-gather copy everything once more."""
        others = [(self.rank + step) % self.world_size for step in range(1, self.world_size)]
        operations = [dist.P2POp(dist.irecv, value, other) for other in others for value in received[other]]
        operations += [dist.P2POp(dist.isend, value, other) for other in others for value in sent[other]]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
