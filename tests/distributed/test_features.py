"""Each switch of the trainer on two ranks: it does what it says, compared with plain PyTorch in one process or seen
in the state that it should change."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from . import rank_parts
from .pool import Measured, RankPool, Run, Weights, identical, relative_difference
from .reference import Trained, train_alone

NINE = 52  # the id of the only 9 among 104 digits
TRAIN, GLOBAL_BATCH, EPOCHS = 101, 20, 2  # the last global batch of an epoch holds one sample
STEPS = 6 * EPOCHS
CNN = {"name": "rank_parts:SmallCnn"}
BATCH_NORM = {**CNN, "kwargs": {"batch_norm": True}}
DATA = {"name": "rank_parts:planes", "kwargs": {"train": TRAIN, "test": 20}, "split": "official"}
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
ADAMW = {"name": "adamw", "lr": 2e-3, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.05}
MLP: dict[str, Any] = {"model": {"name": "mnist_mlp"}, "data": {**DATA, "name": "rank_parts:digits"}}
MLP_SHAPES = {"hidden.weight": (512, 784), "hidden.bias": (512,), "head.weight": (10, 512), "head.bias": (10,)}
MLP_VALUES = sum(math.prod(shape) for shape in MLP_SHAPES.values())


def train(
    ranks: RankPool, world_size: int = 2, micro_batch_size: int | None = None, shards: int = 0, **sections: Any
) -> Run:
    batch = {"global_batch_size": GLOBAL_BATCH, "micro_batch_size": micro_batch_size, "shards": shards}
    extra = {key: sections.pop(key) for key in ("loss", "every_step") if key in sections}
    train_section = {"epochs": EPOCHS, "log_every_steps": 1, **sections.pop("train", {})}
    settings = {"model": CNN, "data": DATA, "optim": SGD, **sections}
    return ranks.train(world_size, **extra, batch=batch, train=train_section, **settings)


def sgd(several: list[nn.Parameter], single: list[nn.Parameter]) -> torch.optim.Optimizer:
    groups = [{"params": several, "weight_decay": 0.01}, {"params": single, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)


def adamw(several: list[nn.Parameter], single: list[nn.Parameter]) -> torch.optim.Optimizer:
    groups = [{"params": several, "weight_decay": 0.05}, {"params": single, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=2e-3, betas=(0.8, 0.95))


def alone(run: Run, count: int = TRAIN, **how: Any) -> Trained:
    model = rank_parts.SmallCnn((3, 20, 20), 2)
    return train_alone(run, rank_parts.planes(count, 20), model, **{"optimizer": sgd, **how})


def agree(run: Run) -> Weights:
    """The final weights, which must be the same bits on every rank."""
    assert all(identical(run.final(rank), run.final()) for rank in range(run.world_size))
    return run.final()


@pytest.mark.parametrize("micro_batch_size", [None, 3], ids=["whole_share", "accumulation"])
@pytest.mark.parametrize(("settings", "optimizer"), [(SGD, sgd), (ADAMW, adamw)], ids=["sgd", "adamw"])
def test_optimizer_equals_plain_torch_on_whole_global_batches(
    ranks: RankPool, settings: dict[str, Any], optimizer: Any, micro_batch_size: int | None, measured: Measured
) -> None:
    run = train(ranks, optim=settings, micro_batch_size=micro_batch_size)
    difference = relative_difference(agree(run), alone(run, optimizer=optimizer).weights)
    measured("relative_difference", difference)
    assert difference < 1e-5


@pytest.mark.parametrize("micro_batch_size", [None, 3], ids=["whole_share", "accumulation"])
def test_clip_norm_equals_clipping_the_gradient_of_the_whole_global_batch(
    ranks: RankPool, micro_batch_size: int | None, measured: Measured
) -> None:
    run = train(ranks, optim={**SGD, "clip_norm": 0.1}, micro_batch_size=micro_batch_size)
    expected = alone(run, clip_norm=0.1)
    difference = relative_difference(agree(run), expected.weights)
    measured("relative_difference", difference)
    assert min(expected.gradient_norms) > 0.1  # every step was clipped
    assert difference < 1e-5
    assert [line["grad_norm"] for line in run.metrics] == pytest.approx(expected.gradient_norms, rel=1e-4)


def test_label_smoothing_equals_that_of_torch(ranks: RankPool, measured: Measured) -> None:
    run = train(ranks, train={"label_smoothing": 0.2})
    expected = alone(run, loss=partial(functional.cross_entropy, label_smoothing=0.2))
    difference = relative_difference(agree(run), expected.weights)
    measured("relative_difference", difference)
    assert difference < 1e-5
    assert relative_difference(run.final(), train(ranks).final()) > 1e-2


def test_bf16_computes_in_bf16_and_keeps_float32_weights(ranks: RankPool, measured: Measured) -> None:
    run, full = train(ranks, train={"precision": "bf16"}), train(ranks)
    assert {rank["output_dtype"] for rank in run.ranks} == {"torch.bfloat16"}
    assert [rank["weight_dtypes"] for rank in run.ranks] == [["torch.float32"]] * 2
    difference = relative_difference(agree(run), alone(run, dtype=torch.bfloat16).weights)
    measured("relative_difference", difference)
    measured("relative_difference_to_fp32", relative_difference(run.final(), full.final()))
    assert difference < 2e-2
    assert not identical(run.final(), full.final())


def test_fp16_computes_in_fp16_with_a_scaled_loss(ranks: RankPool, measured: Measured) -> None:
    # No small last global batch: the gradient of few samples, scaled by 2^16, may overflow.
    data = {**DATA, "kwargs": {"train": 120, "test": 20}}
    run = train(ranks, data=data, train={"precision": "fp16"})
    assert {rank["output_dtype"] for rank in run.ranks} == {"torch.float16"}
    assert {step["scale"] for rank in run.ranks for step in rank["steps"]} == {65536.0}
    difference = relative_difference(agree(run), alone(run, count=120, dtype=torch.float16).weights)
    measured("relative_difference", difference)
    assert difference < 5e-3


@pytest.mark.parametrize("micro_batch_size", [None, 3], ids=["whole_share", "accumulation"])
def test_fp16_overflow_on_one_rank_skips_the_step_on_all(ranks: RankPool, micro_batch_size: int | None) -> None:
    data = {**DATA, "name": "rank_parts:digits_with_one_nine", "kwargs": {"train": 104}}
    run = train(
        ranks, model={"name": "mnist_mlp"}, data=data, train={"precision": "fp16", "log_every_steps": 2, "seed": 2},
        micro_batch_size=micro_batch_size, loss="loss_that_overflows", every_step=True,
    )  # fmt: skip
    batches = [ids for _, ids in run.global_batches()]
    overflowing = [step for step, ids in enumerate(batches, start=1) if NINE in ids]
    assert len(overflowing) == EPOCHS
    assert overflowing[0] == 1  # no step before it has made the optimizer's momentum
    holders = [
        [rank for rank in range(2) for micro in run.ranks[rank]["steps"][step - 1]["micro"] if NINE in micro["ids"]]
        for step in overflowing
    ]
    assert all(len(one) == 1 for one in holders)  # only one rank's own gradient overflowed
    for rank in range(2):
        scale, before = 65536.0, run.initial(rank)
        for step in range(1, STEPS + 1):
            after = run.after_step(step, rank)
            assert identical(after, before) == (step in overflowing)
            assert all(bool(tensor.isfinite().all()) for tensor in after.values())
            scale /= 2 if step in overflowing else 1
            assert run.ranks[rank]["steps"][step - 1]["scale"] == scale
            before = after
    agree(run)


def one_cycle(total: int, pct_start: float) -> list[float]:
    """torch's own OneCycleLR."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total, final_div_factor=1e9, pct_start=pct_start)
    rates = []
    for _ in range(total):
        rates.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return rates


SCHEDULES: dict[str, tuple[dict[str, Any], Callable[[int], list[float]]]] = {
    "constant": ({"schedule": "constant"}, lambda n: [0.05] * n),
    "constant-warmup": (
        {"schedule": "constant", "warmup_fraction": 0.25}, lambda n: [0.05 * min(1, (k + 1) / 3) for k in range(n)]
    ),
    "cosine": (
        {"schedule": "cosine"}, lambda n: [0.05 * (1 + math.cos(math.pi * k / (n - 1))) / 2 for k in range(n)]
    ),
    "cosine-warmup-floor": (
        {"schedule": "cosine", "warmup_fraction": 0.25, "final_lr_fraction": 0.1},
        lambda n: [0.05 * (k + 1) / 3 for k in range(3)]
        + [0.05 * (0.1 + 0.9 * (1 + math.cos(math.pi * k / (n - 4))) / 2) for k in range(n - 3)],
    ),
    "one_cycle": ({"schedule": "one_cycle", "warmup_fraction": 0.25}, lambda n: one_cycle(n, pct_start=4 / 12)),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_is_what_the_optimizer_uses_on_every_rank(ranks: RankPool, name: str) -> None:
    settings, expected = SCHEDULES[name]
    run = train(ranks, optim={**SGD, **settings})
    for rank in run.ranks:
        rates = [step["lr"] for step in rank["steps"]]
        assert all(len(set(one)) == 1 for one in rates)
        assert [one[0] for one in rates] == pytest.approx(expected(STEPS), rel=1e-6, abs=1e-9)
    assert [line["lr"] for line in run.metrics] == pytest.approx(expected(STEPS), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(("scaling", "factor"), [("linear", 2.5), ("sqrt", math.sqrt(2.5)), ("none", 1.0)])
def test_lr_follows_the_global_batch_size(ranks: RankPool, scaling: str, factor: float) -> None:
    reference = {} if scaling == "none" else {"reference_batch_size": 8}
    for world_size in (1, 2):
        run = train(ranks, world_size, optim={**SGD, "lr_scaling": scaling, **reference})
        rates = [lr for rank in run.ranks for step in rank["steps"] for lr in step["lr"]]
        assert rates == pytest.approx([0.05 * factor] * len(rates))


def test_ema_equals_a_hand_computation_and_is_what_is_exported(ranks: RankPool, measured: Measured) -> None:
    run = train(ranks, train={"ema_decay": 0.6}, every_step=True)
    ema = run.initial()
    for step in range(STEPS):
        decay = min(0.6, (1 + step) / (10 + step))
        weights = run.after_step(step + 1)
        ema = {name: decay * ema[name] + (1 - decay) * weights[name] for name in ema}
    difference = relative_difference(run.exported, ema)
    measured("relative_difference", difference)
    assert difference < 1e-6
    assert relative_difference(run.exported, run.final()) > 1e-3
    assert identical(run.final(), train(ranks).final())  # averaging does not touch the training itself


@pytest.mark.parametrize("world_size", [2, 3])
def test_sync_batchnorm_gives_the_weights_and_statistics_of_one_rank(
    ranks: RankPool, world_size: int, measured: Measured
) -> None:
    one, several = (synced_batchnorm(ranks, size, count=104) for size in (1, world_size))
    difference = relative_difference(agree(several), one.final())
    measured("relative_difference", difference)
    assert difference < 1e-5
    assert several.result["test"]["confusion_matrix"] == one.result["test"]["confusion_matrix"]


def synced_batchnorm(ranks: RankPool, world_size: int, count: int) -> Run:
    data = {**DATA, "kwargs": {"train": count, "test": 20}}
    return train(ranks, world_size, model={**BATCH_NORM, "sync_batchnorm": True}, data=data)


def test_sync_batchnorm_leaves_out_ranks_without_samples(ranks: RankPool, measured: Measured) -> None:
    one, three = (synced_batchnorm(ranks, size, count=102) for size in (1, 3))
    difference = relative_difference(agree(three), one.final())
    measured("relative_difference", difference)
    assert difference < 1e-5


def test_batchnorm_without_sync_differs_from_one_rank(ranks: RankPool) -> None:
    one, two = (train(ranks, world_size, model=BATCH_NORM) for world_size in (1, 2))
    assert relative_difference(two.final(), one.final()) > 1e-3


def test_compile_gives_the_same_result(ranks: RankPool, measured: Measured) -> None:
    settings = {**MLP, "optim": ADAMW}
    run, plain = train(ranks, **{**settings, "model": {"name": "mnist_mlp", "compile": True}}), train(ranks, **settings)
    assert [rank["compiled"] for rank in run.ranks] == [True, True]
    assert [rank["compiled"] for rank in plain.ranks] == [False, False]
    difference = relative_difference(agree(run), plain.final())
    measured("relative_difference", difference)
    assert difference < 1e-4


def test_channels_last_changes_the_memory_and_not_the_result(ranks: RankPool, measured: Measured) -> None:
    run, plain = train(ranks, model={**CNN, "channels_last": True}), train(ranks)
    for rank in run.ranks:
        assert rank["inputs_channels_last"]
        assert rank["weights_channels_last"]
    assert not any(rank["weights_channels_last"] or rank["inputs_channels_last"] for rank in plain.ranks)
    difference = relative_difference(agree(run), plain.final())
    measured("relative_difference", difference)
    assert difference < 1e-5


@pytest.mark.parametrize("loss", ["margin_loss", "mean_margin_loss"])
def test_user_loss_per_sample_or_as_a_mean_gives_the_same_on_uneven_shares(
    ranks: RankPool, loss: str, measured: Measured
) -> None:
    run = train(ranks, 3, loss=loss, micro_batch_size=4, optim=ADAMW)
    reference = alone(run, loss=partial(functional.multi_margin_loss, p=2), optimizer=adamw)  # p=2: without a kink
    difference = relative_difference(agree(run), reference.weights)
    measured("relative_difference", difference)
    assert difference < 1e-5


@pytest.mark.parametrize(
    "sections",
    [
        {"model": BATCH_NORM, "train": {"ema_decay": 0.9}, "optim": {**SGD, "clip_norm": 0.5}},
        {"model": {"name": "planesnet_cnn", "dropout": 0.2}, "micro_batch_size": 3},
        {"shards": 4},
        {"optim": {**ADAMW, "zero_redundancy": True}},
        {"data": {**DATA, "placement": "stream", "loader_workers": 1, "shift_px": 2}},
    ],
    ids=["batch_norm_and_ema", "dropout_and_accumulation", "shards", "zero_redundancy", "stream"],
)
def test_the_speed_of_one_worker_is_measured_without_a_trace(ranks: RankPool, sections: dict[str, Any]) -> None:
    plain = train(ranks, **sections)
    run = train(ranks, **sections, telemetry={"one_worker_steps": 2})
    assert all(identical(run.final(rank), plain.final(rank)) for rank in range(2))  # BatchNorm's buffers differ by rank
    assert "scaling_efficiency" not in plain.result
    one, p50 = run.result["one_worker_samples_per_second"], run.result["step_ms"]["p50"]
    assert one > 0
    assert run.result["scaling_efficiency"] == pytest.approx(1000 * GLOBAL_BATCH / p50 / (2 * one), rel=1e-2)
    assert all(rank["result"]["one_worker_samples_per_second"] == one for rank in run.ranks)
