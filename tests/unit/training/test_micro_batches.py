"""The smallest micro-batches of a plan, which the trial before the start tries."""

from __future__ import annotations

from typing import Any

import pytest

from disttrain.config import build_config
from disttrain.data.shards import build_plan
from disttrain.training.micro_batches import describe_single, smallest_evaluated, smallest_trained


@pytest.mark.parametrize("world_size", [1, 3, 8])
@pytest.mark.parametrize(
    ("samples", "batch", "expected"),
    [
        (64, {"global_batch_size": 32, "shards": 8}, 4),
        (64, {"global_batch_size": 32, "shards": 8, "micro_batch_size": 3}, 2),
        (80, {"global_batch_size": 32, "shards": 8}, 2),
        (67, {"global_batch_size": 32, "shards": 8}, 1),  # the last step leaves shards empty
    ],
)
def test_with_shards_it_is_that_of_a_shard_on_any_number_of_ranks(
    samples: int, batch: dict[str, Any], expected: int, world_size: int
) -> None:
    config = build_config({"batch": batch})
    assert smallest_trained(build_plan(config.batch, samples, world_size), config) == expected


def test_without_shards_it_is_that_of_a_rank() -> None:
    config = build_config({"batch": {"global_batch_size": 32}})
    assert [smallest_trained(build_plan(config.batch, 64, ranks), config) for ranks in (1, 3, 8)] == [32, 10, 4]


def test_with_shards_a_batch_of_an_evaluation_is_the_same_on_any_number_of_ranks() -> None:
    batch = build_config({"batch": {"eval_batch_size": 4, "shards": 8}}).batch
    assert {smallest_evaluated(21, ranks, batch) for ranks in range(1, 9)} == {2}
    assert smallest_evaluated(5, 1, batch) == 1


def test_a_sample_alone_in_a_shard_is_told_with_a_batch_size_that_leaves_none() -> None:
    config = build_config({"batch": {"global_batch_size": 32, "shards": 8}})
    text = describe_single(build_plan(config.batch, 67, 2), config, ValueError("one value."))
    assert "in steps of 32 (the last 3) over 8 shards" in text
    size = int(text.split("batch.global_batch_size=")[1].split(",")[0])
    other = build_config({"batch": {"global_batch_size": size, "shards": 8}})
    assert smallest_trained(build_plan(other.batch, 67, 2), other) > 1
