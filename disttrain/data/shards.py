"""The cut of a global batch into shards: a function of its count and the number of shards, and of nothing else.

A shard is one forward and backward pass (or several, where `batch.micro_batch_size` is smaller) on tensors of the same
shapes, whichever rank it falls to. That is what makes the bits of a training independent of the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

from disttrain.config.sections import BatchConfig
from disttrain.data.batch_plan import BatchPlan, Share, check_world_size, cut, rank_slice
from disttrain.errors import ConfigError


def rank_shards(shard_count: int, rank: int, world_size: int) -> range:
    """The neighbouring shards that `rank` takes."""
    return rank_slice(shard_count, rank, world_size)


@dataclass(frozen=True)
class ShardedPlan(BatchPlan):
    """A plan in which every step is `shard_count` shards, dealt out whole."""

    shard_count: int = 1

    @classmethod
    def build_sharded(
        cls,
        sample_count: int,
        world_size: int,
        global_batch_size: int,
        micro_batch_size: int | None,
        shard_count: int,
    ) -> ShardedPlan:
        """Check the numbers against each other. Raises ConfigError where a rank would be left without shards."""
        check_shards(shard_count, world_size)
        largest = -(-min(global_batch_size, sample_count) // shard_count)
        micro_batch_size = min(micro_batch_size or largest, largest)
        return cls(sample_count, global_batch_size, micro_batch_size, world_size, shard_count)

    def shares(self, step_in_epoch: int, rank: int) -> list[Share]:
        """The shards that `rank` takes in a step, each cut into its micro-batches. A shard may be empty."""
        positions = self.step_range(step_in_epoch)
        shares = []
        for shard in rank_shards(self.shard_count, rank, self.world_size):
            part = rank_slice(len(positions), shard, self.shard_count)
            shard_positions = positions[part.start : part.stop]
            shares.append(Share(shard, cut(shard_positions, max(1, -(-len(part) // self.micro_batch_size)))))
        return shares

    @property
    def grad_accum_steps(self) -> int:
        """Micro-batches of the largest shard in a full step."""
        largest = -(-min(self.global_batch_size, self.sample_count) // self.shard_count)
        return -(-largest // self.micro_batch_size)

    def render(self) -> str:
        """The arithmetic in one line, for the start of the log."""
        last = len(self.step_range(self.steps_per_epoch - 1))
        return (
            f"{self.sample_count:,} training samples = {self.steps_per_epoch} steps/epoch of "
            f"{self.global_batch_size} (the last {last}); a step = {self.shard_count} shard(s) on {self.world_size} "
            f"rank(s), each in {self.grad_accum_steps} micro-batch(es) of up to {self.micro_batch_size}"
        )


def build_plan(batch: BatchConfig, sample_count: int, world_size: int) -> BatchPlan:
    """The plan that the config asks for. Raises ConfigError where its numbers do not fit together."""
    sizes = batch.global_batch_size, batch.micro_batch_size
    if batch.shards:
        return ShardedPlan.build_sharded(sample_count, world_size, *sizes, batch.shards)
    return BatchPlan.build(sample_count, world_size, *sizes)


def check_ranks(batch: BatchConfig, world_size: int) -> None:
    """Raise ConfigError where a global batch does not give every rank its part."""
    if batch.shards:
        check_shards(batch.shards, world_size)
    else:
        check_world_size(batch.global_batch_size, world_size)


def eval_batches(count: int, batch_size: int, shard_count: int) -> list[range]:
    """`range(count)` in batches of at most `batch_size` for an evaluation: a multiple of `shard_count` of them, so that
    ranks get nearly as many each, but none is empty."""
    batches = -(-count // batch_size)
    batches = min(count, -(-batches // shard_count) * shard_count)
    return cut(range(count), batches)


def check_shards(shard_count: int, world_size: int) -> None:
    """Raise ConfigError where there are fewer shards than ranks."""
    if shard_count < world_size:
        raise ConfigError(
            f"batch.shards={shard_count} is smaller than world_size={world_size}: a rank takes whole shards, at least "
            f"one. Use at most {shard_count} workers, or batch.shards={1 << (world_size - 1).bit_length()} or more, "
            "which is another training."
        )
