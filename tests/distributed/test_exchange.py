"""What ranks send each other for the gradients, and what each of them keeps of the optimizer."""

from __future__ import annotations

from typing import Any

import pytest

from .pool import Measured, RankPool, Run, relative_difference
from .test_features import (
    ADAMW,
    EPOCHS,
    MLP,
    MLP_SHAPES,
    MLP_VALUES,
    SGD,
    STEPS,
    agree,
    train,
)


def gradient_reductions(run: Run, step: int, rank: int = 0) -> list[tuple[str, int]]:
    """What went through `all_reduce` for gradients: the sums of the log are float64."""
    return [(dtype, n) for dtype, n in run.ranks[rank]["steps"][step]["reduced"] if dtype != "torch.float64"]


def test_accumulation_reduces_gradients_once_a_step(ranks: RankPool) -> None:
    # The bf16 hook sends every bucket through `all_reduce` in Python, where it can be counted.
    comm = {"compression": "bf16"}
    whole, accumulated = train(ranks, **MLP, comm=comm), train(ranks, **MLP, comm=comm, micro_batch_size=2)
    assert [len(step["micro"]) for step in accumulated.ranks[0]["steps"]] == [5, 5, 5, 5, 5, 1] * EPOCHS
    for step in range(STEPS):
        once = gradient_reductions(accumulated, step)
        assert sum(n for _, n in once) == MLP_VALUES
        assert once == gradient_reductions(whole, step)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_compression_to_16_bits_sends_two_bytes_a_value(
    ranks: RankPool, measured: Measured, name: str, dtype: str
) -> None:
    run, plain = train(ranks, **MLP, comm={"compression": name}), train(ranks, **MLP)
    assert run.ranks[1]["ddp"]["comm_hook"] == f"{name}_compress_hook"
    for step in range(STEPS):
        sent = gradient_reductions(run, step, rank=1)
        assert {kind for kind, _ in sent} == {f"torch.{dtype}"}
        assert sum(n for _, n in sent) == MLP_VALUES
    difference = relative_difference(agree(run), plain.final())
    measured("relative_difference", difference)
    assert 0 < difference < 2e-2


def test_powersgd_sends_low_rank_factors_and_stays_close(ranks: RankPool, measured: Measured) -> None:
    longer = {"epochs": 4}
    run = train(ranks, **MLP, train=longer, comm={"compression": "powersgd", "powersgd_rank": 2})
    plain = train(ranks, **MLP, train=longer)
    assert run.ranks[1]["ddp"]["comm_hook"] == "powerSGD_hook"
    values = [sum(n for _, n in gradient_reductions(run, step)) for step in range(2 * STEPS)]
    factors = sum(2 * sum(shape) if len(shape) == 2 else shape[0] for shape in MLP_SHAPES.values())
    assert set(values) == {MLP_VALUES, factors}
    assert values == sorted(values, reverse=True)  # plain steps first
    assert values.count(factors) >= 10
    difference = relative_difference(agree(run), plain.final())
    measured("relative_difference", difference)
    measured("values_per_step", f"{MLP_VALUES} -> {factors}")
    assert 0 < difference < 0.2
    assert run.metrics[-2]["loss"] == pytest.approx(plain.metrics[-2]["loss"], rel=0.2)


def test_bucket_mib_sets_the_number_of_buckets(ranks: RankPool, measured: Measured) -> None:
    one = train(ranks, **MLP, comm={"compression": "bf16", "bucket_mib": 25.0})
    several = train(ranks, **MLP, comm={"compression": "bf16", "bucket_mib": 0.01})
    counts = [len(gradient_reductions(run, STEPS - 1)) for run in (one, several)]
    measured("buckets", str(counts))
    assert counts[0] == 1
    assert counts[1] > 1
    assert sum(n for _, n in gradient_reductions(several, STEPS - 1)) == MLP_VALUES


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_zero_redundancy_shards_the_state_and_gives_the_same_weights(
    ranks: RankPool, optimizer: dict[str, Any], world_size: int, measured: Measured
) -> None:
    settings = {**optimizer, "schedule": "cosine"}
    run = train(ranks, world_size, optim={**settings, "zero_redundancy": True})
    plain = train(ranks, world_size, optim=settings)
    difference = relative_difference(agree(run), plain.final())
    measured("relative_difference", difference)
    assert difference < 1e-6
    whole = plain.ranks[0]["optimizer_values"]
    parts = [rank["optimizer_values"] for rank in run.ranks]
    measured("optimizer_values", f"{whole} -> {parts}")
    assert {rank["optimizer"] for rank in run.ranks} == {"ZeroRedundancyOptimizer"}
    assert sum(parts) == whole
    assert all(0 < part < whole for part in parts)
