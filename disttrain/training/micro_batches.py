"""The smallest micro-batches of a training: BatchNorm, and a squeeze() too many, cannot take one sample alone."""

from __future__ import annotations

from disttrain.config import Config
from disttrain.data.batch_plan import BatchPlan, rank_slice
from disttrain.errors import ConfigError

_TRIED = 4096  # other batch sizes looked at for the way out


def smallest_trained(plan: BatchPlan, config: Config) -> int:
    """Samples in the smallest micro-batch; of all ranks together where BatchNorm's statistics are."""
    together = config.model.sync_batchnorm and plan.world_size > 1
    steps = {0}
    if (config.train.max_steps or plan.steps_per_epoch) >= plan.steps_per_epoch:
        steps.add(plan.steps_per_epoch - 1)
    smallest = plan.global_batch_size
    for step in steps:
        ranks = [[len(part) for part in plan.micro_ranges(step, rank)] for rank in range(plan.world_size)]
        sizes = (
            [sum(sizes) for sizes in zip(*ranks, strict=True)] if together else [max(1, n) for r in ranks for n in r]
        )
        smallest = min(smallest, *sizes)
    return smallest


def smallest_evaluated(count: int, world_size: int, batch_size: int) -> int:
    """Samples in the smallest batch of an evaluation of `count` samples."""
    shares = {len(rank_slice(count, rank, world_size)) for rank in range(world_size)} - {0}
    return min(min(share, batch_size, share % batch_size or batch_size) for share in shares)


def describe_single(plan: BatchPlan, config: Config, error: Exception) -> str:
    """That a sample comes alone and the network cannot take it, with the numbers and the way out."""
    last = len(plan.step_range(plan.steps_per_epoch - 1))
    other = _other_batch_size(plan, config)
    way_out = f"Use batch.global_batch_size={other}" if other else "Use larger micro-batches, fewer workers"
    reason = " ".join(str(error).split()).rstrip(".")
    return (
        f"{plan.sample_count} training samples in steps of {plan.global_batch_size} (the last {last}) over "
        f"{plan.world_size} rank(s), with micro-batches of up to {plan.micro_batch_size}, leave a sample alone in a "
        f"micro-batch, and the network or the loss cannot train on one sample: {type(error).__name__}: {reason}. "
        f"{way_out}, another number of samples (data.val_fraction, data.test_fraction), or GroupNorm in place of "
        "BatchNorm."
    )


def _other_batch_size(plan: BatchPlan, config: Config) -> int | None:
    """The nearest global batch size that leaves no sample alone."""
    wanted = config.batch.global_batch_size
    nearby = sorted(range(1, min(2 * wanted, wanted + _TRIED) + 1), key=lambda size: abs(size - wanted))
    for size in nearby[:_TRIED]:
        try:
            other = BatchPlan.build(plan.sample_count, plan.world_size, size, config.batch.micro_batch_size)
        except ConfigError:
            continue
        if smallest_trained(other, config) > 1:
            return size
    return None
