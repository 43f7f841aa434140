"""World size, accumulation and loading change nothing about the result."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from .pool import Measured, RankPool, Run, identical, relative_difference

WORLD_SIZES = (1, 2, 3, 4)
EPOCHS = 4
# 203 = 6 x 33 + 5; 199 = 6 x 33 + 1: the last global batch of an epoch has fewer samples than there are ranks.
CNN = {
    "model": {"name": "rank_parts:SmallCnn"},
    "data": {"name": "rank_parts:planes", "kwargs": {"train": 203}, "split": "official", "horizontal_flip": True,
             "vertical_flip": True, "quarter_turns": True, "shift_px": 2},
}  # fmt: skip
MLP = {
    "model": {"name": "mnist_mlp"},
    "data": {"name": "rank_parts:digits", "kwargs": {"train": 199}, "split": "official", "shift_px": 2},
}
SGD = {"name": "sgd", "lr": 0.05, "schedule": "one_cycle", "weight_decay": 1e-4}
ADAMW = {"name": "adamw", "lr": 1e-3, "schedule": "cosine", "weight_decay": 0.01}
CASES: dict[str, dict[str, Any]] = {
    "cnn-sgd": {**CNN, "optim": SGD},
    "cnn-adamw": {**CNN, "optim": ADAMW},
    "mlp-sgd": {**MLP, "optim": SGD},
    "mlp-adamw": {**MLP, "optim": ADAMW},
}


def run(ranks: RankPool, case: str, world_size: int, micro_batch_size: int | None = None) -> Run:
    batch = {"global_batch_size": 33, "micro_batch_size": micro_batch_size}
    return ranks.train(world_size, **CASES[case], batch=batch, train={"epochs": EPOCHS})


every_case = pytest.mark.parametrize("case", CASES)
every_world_size = pytest.mark.parametrize("world_size", WORLD_SIZES)
accumulation_on_and_off = pytest.mark.parametrize("micro_batch_size", [None, 4], ids=["whole_share", "accumulation"])


@accumulation_on_and_off
@every_world_size
@every_case
def test_weights_do_not_depend_on_world_size_and_accumulation(
    ranks: RankPool, case: str, world_size: int, micro_batch_size: int | None, measured: Measured
) -> None:
    reference = run(ranks, case, 1)
    here = run(ranks, case, world_size, micro_batch_size)
    difference = relative_difference(here.exported, reference.exported)
    measured("relative_difference", difference)
    moved = relative_difference(reference.exported, reference.initial())
    assert difference < 1e-5
    assert moved > 0.01  # there was something to differ in


@accumulation_on_and_off
@every_world_size
@every_case
def test_every_sample_is_taken_exactly_once_an_epoch(
    ranks: RankPool, case: str, world_size: int, micro_batch_size: int | None
) -> None:
    here = run(ranks, case, world_size, micro_batch_size)
    count = CASES[case]["data"]["kwargs"]["train"]
    for epoch in range(EPOCHS):
        taken = Counter(one for at, ids in here.global_batches() for one in ids if at == epoch)
        assert taken == Counter(range(count))
    sizes = [len(ids) for _, ids in here.global_batches()]
    assert sizes == ([33] * 6 + [count - 198]) * EPOCHS
    for rank in here.ranks:  # what was taken is what went through the network
        assert [step["forwards"] for step in rank["steps"]] == [
            [len(micro["ids"]) for micro in step["micro"]] for step in rank["steps"]
        ]
        if micro_batch_size:
            largest = max(len(micro["ids"]) for step in rank["steps"] for micro in step["micro"])
            assert micro_batch_size / 2 < largest <= micro_batch_size


@every_world_size
def test_the_same_samples_form_the_same_step_for_any_world_size(ranks: RankPool, world_size: int) -> None:
    one, here = run(ranks, "cnn-sgd", 1), run(ranks, "cnn-sgd", world_size, 4)
    assert here.global_batches() == one.global_batches()
    orders = [[one for at, ids in here.global_batches() for one in ids if at == epoch] for epoch in range(EPOCHS)]
    assert len(set(map(tuple, orders))) == EPOCHS  # each epoch in an order of its own


@every_world_size
@every_case
def test_all_ranks_end_with_identical_weights(ranks: RankPool, case: str, world_size: int) -> None:
    here = run(ranks, case, world_size)
    assert all(identical(here.final(rank), here.exported) for rank in range(world_size))


@every_world_size
@every_case
def test_initial_weights_are_the_same_on_each_rank_and_for_each_world_size(
    ranks: RankPool, case: str, world_size: int
) -> None:
    one, here = run(ranks, case, 1), run(ranks, case, world_size)
    assert all(identical(here.initial(rank), one.initial()) for rank in range(world_size))


@pytest.mark.parametrize("loader_workers", [0, 2])
@pytest.mark.parametrize("case", ["cnn-sgd", "mlp-adamw"])
def test_streaming_gives_the_same_bits_as_data_on_the_device(ranks: RankPool, case: str, loader_workers: int) -> None:
    settings = {**CASES[case], "batch": {"global_batch_size": 33, "micro_batch_size": 6}, "train": {"epochs": 2}}
    on_device, streamed = (
        ranks.train(2, **{**settings, "data": {**settings["data"], **where}})
        for where in ({"placement": "device"}, {"placement": "stream", "loader_workers": loader_workers})
    )
    assert on_device.ranks[1]["samples"] == "InMemorySamples"
    assert streamed.ranks[1]["samples"] == "StreamedSamples"
    assert identical(streamed.exported, on_device.exported)
    assert streamed.global_batches() == on_device.global_batches()
