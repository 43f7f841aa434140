"""The only batch arithmetic: which part of a global batch each rank takes, and in which micro-batches.

Nothing is padded, dropped or duplicated. A share differs between ranks by one sample at most, and a step's gradient
is normalised by the count of the global batch, so an uneven split changes nothing about the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from disttrain.errors import ConfigError


def rank_slice(count: int, rank: int, world_size: int) -> range:
    """The contiguous part of `range(count)` that `rank` takes. The parts cover the range, each position once."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


def cut(positions: range, parts: int) -> list[range]:
    """`positions` in `parts` pieces of near-equal size."""
    slices = [rank_slice(len(positions), part, parts) for part in range(parts)]
    return [positions[one.start : one.stop] for one in slices]


class Share(NamedTuple):
    """What is summed up on a rank before other ranks have a part in it: its slice of a global batch, or a shard."""

    number: int
    """The rank, or the shard: dropout is drawn from (seed, step, number)."""
    micro_ranges: list[range]
    """The positions of its micro-batches in the epoch's order."""


@dataclass(frozen=True)
class BatchPlan:
    """How `sample_count` training samples are cut into steps, ranks and micro-batches."""

    sample_count: int
    global_batch_size: int
    micro_batch_size: int
    world_size: int

    @classmethod
    def build(
        cls, sample_count: int, world_size: int, global_batch_size: int, micro_batch_size: int | None = None
    ) -> BatchPlan:
        """Check the numbers against each other. Raises ConfigError where a rank would be left without samples."""
        check_world_size(global_batch_size, world_size)
        if sample_count < world_size:
            raise ConfigError(
                f"the training split holds {sample_count} samples for world_size={world_size}: every rank needs a "
                f"sample. Use at most {sample_count} workers, or more data."
            )
        largest_share = -(-min(global_batch_size, sample_count) // world_size)
        micro_batch_size = min(micro_batch_size or largest_share, largest_share)
        return cls(sample_count, global_batch_size, micro_batch_size, world_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch, the last one possibly on a smaller global batch."""
        return -(-self.sample_count // self.global_batch_size)

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches that every rank takes in a full step."""
        return self._micro_steps(min(self.global_batch_size, self.sample_count))

    def step_range(self, step_in_epoch: int) -> range:
        """Positions in the epoch's order that form the global batch of a step."""
        start = step_in_epoch * self.global_batch_size
        return range(start, min(start + self.global_batch_size, self.sample_count))

    def locate(self, step: int) -> tuple[int, int]:
        """Where a run stands after `step` steps: its epoch, and the steps done in that."""
        return divmod(step, self.steps_per_epoch)

    def samples_before(self, step: int) -> int:
        """Samples used in the first `step` steps of a run."""
        epoch, step_in_epoch = self.locate(step)
        return epoch * self.sample_count + step_in_epoch * self.global_batch_size

    def micro_ranges(self, step_in_epoch: int, rank: int) -> list[range]:
        """The positions of a step that `rank` takes, cut into micro-batches of near-equal size.

        There are as many on every rank, so that collectives inside a network (SyncBatchNorm) meet. One is empty where
        the rank has fewer samples than that: in a last step that is smaller than the number of ranks, say.
        """
        positions = self.step_range(step_in_epoch)
        share = rank_slice(len(positions), rank, self.world_size)
        return cut(positions[share.start : share.stop], self._micro_steps(len(positions)))

    def shares(self, step_in_epoch: int, rank: int) -> list[Share]:
        """What `rank` takes in a step: one share, its slice."""
        return [Share(rank, self.micro_ranges(step_in_epoch, rank))]

    def _micro_steps(self, count: int) -> int:
        """Micro-batches in a step of `count` samples: what the largest share needs."""
        largest_share = -(-count // self.world_size)
        return -(-largest_share // self.micro_batch_size)

    def render(self) -> str:
        """The arithmetic in one line, for the start of the log."""
        last = len(self.step_range(self.steps_per_epoch - 1))
        return (
            f"{self.sample_count:,} training samples = {self.steps_per_epoch} steps/epoch of "
            f"{self.global_batch_size} (the last {last}); a step = {self.world_size} rank(s) x "
            f"{self.grad_accum_steps} micro-batch(es) of up to {self.micro_batch_size}"
        )


def check_world_size(global_batch_size: int, world_size: int) -> None:
    """Raise ConfigError where a global batch is too small to give every rank a sample."""
    if global_batch_size < world_size:
        raise ConfigError(
            f"batch.global_batch_size={global_batch_size} is smaller than world_size={world_size}: every rank needs "
            f"a sample. Use global_batch_size >= {world_size} or fewer workers."
        )
