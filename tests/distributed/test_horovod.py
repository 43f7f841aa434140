"""Horovod as the engine: the same weights as DDP, and every switch of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .commands import needs_horovod
from .pool import Measured, RankPool, Run, Weights, identical, relative_difference
from .test_fit import fit

pytestmark = needs_horovod

# 203 = 6 x 33 + 5: shares differ, and so does the last global batch. 67 = 2 x 33 + 1: it has one sample for all ranks.
PLANES = {
    "model": {"name": "rank_parts:SmallCnn"},
    "data": {"name": "rank_parts:planes", "kwargs": {"train": 203, "test": 20}, "split": "official",
             "horizontal_flip": True, "vertical_flip": True, "quarter_turns": True, "shift_px": 2},
    "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "clip_norm": 0.5},
    "train": {"epochs": 3, "label_smoothing": 0.05, "ema_decay": 0.9},
}  # fmt: skip
DIGITS = {
    "model": {"name": "mnist_mlp"},
    "data": {"name": "rank_parts:digits", "kwargs": {"train": 67, "test": 20}, "split": "official", "shift_px": 2},
    "optim": {"name": "sgd", "lr": 0.05, "schedule": "one_cycle", "weight_decay": 1e-4},
    "train": {"epochs": 3},
}
BATCH_NORM = {**PLANES, "model": {"name": "rank_parts:SmallCnn", "kwargs": {"batch_norm": True}}}
CASES: dict[str, dict[str, Any]] = {"planes": PLANES, "digits": DIGITS, "batch_norm": BATCH_NORM}


def train(
    ranks: RankPool,
    backend: str,
    case: str = "planes",
    world_size: int = 2,
    micro_batch_size: int | None = 4,
    precision: str = "fp32",
    **sections: Any,
) -> Run:
    chosen = CASES[case]
    batch = {"global_batch_size": 33, "micro_batch_size": micro_batch_size}
    how = {**chosen["train"], "precision": precision, "backend": backend}
    return ranks.train(world_size, **{**chosen, **sections, "train": how, "batch": batch})


def agree(run: Run) -> Weights:
    """The final weights, which must be the same bits on every rank."""
    assert all(identical(run.final(rank), run.final()) for rank in range(run.world_size))
    return run.final()


@pytest.mark.parametrize("micro_batch_size", [None, 4], ids=["whole_share", "accumulation"])
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("case", ["planes", "digits"])
def test_weights_are_those_of_ddp(
    ranks: RankPool, case: str, world_size: int, micro_batch_size: int | None, measured: Measured
) -> None:
    here, reference = (train(ranks, name, case, world_size, micro_batch_size) for name in ("horovod", "ddp"))
    difference = relative_difference(here.exported, reference.exported)
    measured("relative_difference", difference)
    assert difference < 1e-5
    assert relative_difference(agree(here), reference.final()) < 1e-5
    assert relative_difference(here.final(), here.initial()) > 0.01
    assert here.result["test"]["confusion_matrix"] == reference.result["test"]["confusion_matrix"]
    assert here.global_batches() == reference.global_batches()


def test_batch_statistics_of_the_model_are_those_of_rank_zero_as_with_ddp(ranks: RankPool) -> None:
    here, reference = (train(ranks, name, "batch_norm", micro_batch_size=None) for name in ("horovod", "ddp"))
    assert relative_difference(here.exported, reference.exported) < 1e-5
    assert here.result["test"]["confusion_matrix"] == reference.result["test"]["confusion_matrix"]


@pytest.mark.parametrize(
    ("precision", "case", "bound"), [("bf16", "planes", 2e-2), ("fp16", "planes", 5e-3), ("fp16", "digits", 5e-3)]
)
def test_half_precision_stays_close_to_ddp(
    ranks: RankPool, precision: str, case: str, bound: float, measured: Measured
) -> None:
    here, reference = (train(ranks, name, case, precision=precision) for name in ("horovod", "ddp"))
    assert [rank["output_dtype"] for rank in here.ranks] == [rank["output_dtype"] for rank in reference.ranks]
    scales, expected = ([step["scale"] for step in run.ranks[0]["steps"]] for run in (here, reference))
    assert scales == expected  # an overflow is seen in the same steps
    difference = relative_difference(agree(here), reference.final())
    measured("relative_difference", difference)
    assert difference < bound


def test_fp16_compression_rounds_gradients_and_little_else(ranks: RankPool, measured: Measured) -> None:
    here = train(ranks, "horovod", "digits", comm={"compression": "fp16"})
    plain = train(ranks, "horovod", "digits")
    difference = relative_difference(agree(here), plain.final())
    measured("relative_difference", difference)
    assert 0 < difference < 1e-2


def test_smaller_buckets_change_no_result(ranks: RankPool) -> None:
    here, plain = (train(ranks, "horovod", world_size=3, comm=comm) for comm in ({"bucket_mib": 0.05}, {}))
    assert relative_difference(agree(here), plain.final()) < 1e-5


def test_a_timeline_tells_of_every_bucket(ranks: RankPool) -> None:
    file = ranks.folder_for_job() / "timeline.json"
    train(ranks, "horovod", comm={"timeline": str(file), "bucket_mib": 0.001})
    text = file.read_text()
    events = json.loads(text if text.rstrip().endswith("]") else text.rstrip().rstrip(",") + "]")
    names = {event.get("args", {}).get("name", "") for event in events if event}
    assert {name for name in names if "gradients/" in name} == {
        f"grouped_allreduce.gradients/{index}_1of1" for index in range(5)
    }


def test_a_run_repeated_gives_the_same_bits(ranks: RankPool) -> None:
    sections: dict[str, Any] = {"comm": {"timeout_s": 61.0}}  # else the pool would not train it again
    assert identical(
        train(ranks, "horovod", world_size=3).final(), train(ranks, "horovod", world_size=3, **sections).final()
    )


def test_fit_may_be_called_again_in_the_same_process(ranks: RankPool) -> None:
    weights = [fit(ranks, 2, times=2, train={"epochs": 2, "backend": name})[1] for name in ("horovod", "ddp")]
    assert relative_difference(*weights) < 1e-5


def test_one_rank_needs_no_others(ranks: RankPool) -> None:
    here, reference = (train(ranks, name, world_size=1) for name in ("horovod", "ddp"))
    assert identical(here.final(), reference.final())
