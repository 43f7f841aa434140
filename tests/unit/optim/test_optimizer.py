"""The learning rate of every step, and which weights decay."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import pytest
import torch
from torch import nn

from disttrain.config.sections import OptimConfig
from disttrain.optim.optimizer import build_optimizer, build_schedule, peak_lr, set_lr


def rates(total: int, **fields: Any) -> list[float]:
    schedule = build_schedule(OptimConfig(**{"lr": 0.5, **fields}), 256, total)
    return [schedule(step) for step in range(total)]


def test_constant_stays_at_the_peak() -> None:
    assert rates(10, schedule="constant") == [0.5] * 10


def test_warm_up_rises_evenly_from_the_first_step_to_the_peak() -> None:
    made = rates(20, schedule="constant", warmup_fraction=0.25)
    assert made[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert made[5:] == [0.5] * 15


def test_cosine_falls_to_the_final_fraction_at_the_last_step() -> None:
    made = rates(101, schedule="cosine", final_lr_fraction=0.1)
    assert made[0] == 0.5
    assert made[50] == pytest.approx(0.275)  # half way between 0.5 and 0.05
    assert made[100] == pytest.approx(0.05)
    assert all(a > b for a, b in itertools.pairwise(made))
    assert made == pytest.approx([0.05 + 0.225 * (1 + math.cos(math.pi * k / 100)) for k in range(101)])


def test_cosine_after_warm_up_begins_at_the_peak() -> None:
    made = rates(50, schedule="cosine", warmup_fraction=0.2)
    assert max(made) == 0.5
    assert [k for k, lr in enumerate(made) if lr == 0.5] == [9, 10]
    assert made[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("warmup", "top"), [(0.0, 30), (0.5, 50)])
def test_one_cycle_rises_from_a_25th_and_falls_to_the_end(warmup: float, top: int) -> None:
    made = rates(100, schedule="one_cycle", warmup_fraction=warmup)
    assert made[0] == pytest.approx(0.5 / 25)
    assert made.index(max(made)) == top
    assert made[top] == 0.5
    assert made[-1] == pytest.approx(0, abs=1e-12)
    assert all(a < b for a, b in itertools.pairwise(made[: top + 1]))
    assert all(a > b for a, b in itertools.pairwise(made[top:]))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("total", [1, 2, 3, 10])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
def test_the_shortest_runs_have_a_rate_above_zero_and_at_most_the_peak(
    schedule: str, total: int, warmup: float
) -> None:
    made = rates(total, schedule=schedule, warmup_fraction=warmup, final_lr_fraction=0.01)
    assert all(0 < lr <= 0.5 for lr in made)


def test_a_step_beyond_the_end_keeps_the_last_rate() -> None:
    schedule = build_schedule(OptimConfig(schedule="cosine", final_lr_fraction=0.1, lr=0.5), 256, 100)
    assert schedule(500) == schedule(99) == pytest.approx(0.05)


@pytest.mark.parametrize(("scaling", "expected"), [("none", 0.1), ("linear", 0.4), ("sqrt", 0.2)])
def test_the_rate_follows_the_global_batch_size(scaling: Literal["none", "linear", "sqrt"], expected: float) -> None:
    reference: dict[str, Any] = {} if scaling == "none" else {"reference_batch_size": 64}
    optim = OptimConfig(lr=0.1, lr_scaling=scaling, **reference)
    assert peak_lr(optim, 256) == pytest.approx(expected)
    assert build_schedule(optim, 256, 10)(0) == pytest.approx(expected)


def test_without_a_reference_the_rate_is_as_given() -> None:
    assert peak_lr(OptimConfig(lr=0.1, lr_scaling="linear"), 1024) == 0.1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4), nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weights_decay_and_biases_and_norms_do_not_and_frozen_ones_stay_out(name: Literal["adamw", "sgd"]) -> None:
    net = Net()
    optimizer = build_optimizer(OptimConfig(name=name, weight_decay=0.1), net)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"conv.weight": 0.1, "head.weight": 0.1}
    for key, parameter in net.named_parameters():
        assert decay.get(id(parameter)) == (None if key.startswith("frozen") else expected.get(key, 0.0)), key


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_optimizer_is_torchs_with_the_settings_of_the_config(name: Literal["adamw", "sgd"]) -> None:
    made = []
    fields: dict[str, Any] = {"beta1": 0.7, "beta2": 0.95, "momentum": 0.6, "nesterov": True, "lr": 0.05}
    for build in (
        lambda p: build_optimizer(OptimConfig(name=name, **fields), nn.ParameterList([p])),
        lambda p: (
            torch.optim.AdamW([p], lr=0.05, betas=(0.7, 0.95), weight_decay=0.0)
            if name == "adamw"
            else torch.optim.SGD([p], lr=0.05, momentum=0.6, nesterov=True)
        ),
    ):
        weight = nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
        optimizer = build(weight)
        for step in range(5):
            weight.grad = torch.sin(weight.detach() * 3 + step)
            optimizer.step()
        made.append(weight.detach())
    ours, torchs = made
    assert torch.allclose(ours, torchs, atol=1e-6)


def test_set_lr_reaches_every_group() -> None:
    optimizer = build_optimizer(OptimConfig(weight_decay=0.1), Net())
    assert len(optimizer.param_groups) == 2
    set_lr(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]
