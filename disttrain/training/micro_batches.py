"""The smallest micro-batches of a training: BatchNorm, and a squeeze() too many, cannot take one sample alone."""

from __future__ import annotations

from disttrain.config import Config
from disttrain.config.sections import BatchConfig
from disttrain.data.batch_plan import BatchPlan, rank_slice
from disttrain.data.shards import build_plan, eval_batches
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
        ranks = [
            [len(part) for share in plan.shares(step, rank) for part in share.micro_ranges]
            for rank in range(plan.world_size)
        ]
        sizes = (
            [sum(sizes) for sizes in zip(*ranks, strict=True)] if together else [max(1, n) for r in ranks for n in r]
        )
        smallest = min(smallest, *sizes)
    return smallest


def smallest_evaluated(count: int, world_size: int, batch: BatchConfig) -> int:
    """Samples in the smallest batch of an evaluation of `count` samples."""
    batch_size = batch.eval_batch_size
    if batch.shards:
        return min(map(len, eval_batches(count, batch_size, batch.shards)))
    shares = {len(rank_slice(count, rank, world_size)) for rank in range(world_size)} - {0}
    return min(min(share, batch_size, share % batch_size or batch_size) for share in shares)


def describe_single(plan: BatchPlan, config: Config, error: Exception) -> str:
    """That a sample comes alone and the network cannot take it, with the numbers and the way out."""
    last = len(plan.step_range(plan.steps_per_epoch - 1))
    other = _other_batch_size(plan, config)
    shards = config.batch.shards
    parts, fewer = (f"{shards} shards", "batch.shards") if shards else (f"{plan.world_size} rank(s)", "workers")
    way_out = f"Use batch.global_batch_size={other}" if other else f"Use larger micro-batches, fewer {fewer}"
    reason = " ".join(str(error).split()).rstrip(".")
    return (
        f"{plan.sample_count} training samples in steps of {plan.global_batch_size} (the last {last}) over "
        f"{parts}, with micro-batches of up to {plan.micro_batch_size}, leave a sample alone in a "
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
            batch = config.batch.model_copy(update={"global_batch_size": size})
            other = build_plan(batch, plan.sample_count, plan.world_size)
        except ConfigError:
            continue
        if smallest_trained(other, config) > 1:
            return size
    return None
