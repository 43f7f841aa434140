"""fp32, bf16 and fp16: what the forward pass computes in, and what happens to gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from disttrain.optim.precision import Precision

from ..helpers import not_none

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_the_forward_pass_computes_in_the_precision_asked_for_and_weights_stay_float32(
    name: str, dtype: torch.dtype
) -> None:
    net, precision = nn.Linear(4, 3), Precision(name, CPU)
    with precision.autocast():
        outputs = net(torch.ones(2, 4))
    assert outputs.dtype == dtype
    precision.backward(outputs.float().sum())
    assert net.weight.dtype == not_none(net.weight.grad).dtype == torch.float32


def trained(name: str, max_norm: float | None, weight: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    net = nn.Linear(2, 1, bias=False)
    nn.init.constant_(net.weight, weight)
    optimizer, precision = torch.optim.SGD(net.parameters(), lr=1.0), Precision(name, CPU)
    precision.backward(net(torch.tensor([[3.0, 4.0]])).sum())
    norm = precision.clip(optimizer, max_norm)
    assert precision.step(optimizer, norm)
    return norm, weight - net.weight.detach()


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_gradients_are_measured_and_clipped_unscaled(name: str) -> None:
    norm, moved = trained(name, None)
    assert norm.item() == pytest.approx(5.0)
    assert torch.allclose(moved, torch.tensor([[3.0, 4.0]]))
    norm, moved = trained(name, 1.0)
    assert norm.item() == pytest.approx(5.0)
    assert torch.allclose(moved, torch.tensor([[0.6, 0.8]]), atol=1e-5)


def test_a_gradient_below_the_limit_is_left_as_it_is() -> None:
    assert torch.equal(trained("fp32", 100.0)[1], torch.tensor([[3.0, 4.0]]))


def test_parameters_without_a_gradient_are_no_obstacle() -> None:
    net = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    precision = Precision("fp32", CPU)
    precision.backward(net[0](torch.ones(1, 2)).sum())
    assert precision.clip(torch.optim.SGD(net.parameters(), lr=1.0), 1.0).item() == pytest.approx(3**0.5)


def test_in_fp16_a_step_whose_gradient_overflows_is_left_out_and_the_scale_halved() -> None:
    net = nn.Linear(2, 1)
    before = net.weight.detach().clone()
    optimizer, precision = torch.optim.SGD(net.parameters(), lr=1.0), Precision("fp16", CPU)
    assert precision.scaler is not None
    precision.backward(net(torch.full((1, 2), float("inf"))).sum())
    scale = precision.scaler.get_scale()
    norm = precision.clip(optimizer, None)
    assert not precision.step(optimizer, norm)
    assert precision.lower_scale(lambda: True)
    assert torch.equal(net.weight, before)
    assert precision.scaler.get_scale() == scale / 2


def test_in_fp16_a_loss_that_is_not_finite_is_a_fault_at_any_scale_and_leaves_the_scale() -> None:
    net = nn.Linear(2, 1)
    optimizer, precision = torch.optim.SGD(net.parameters(), lr=1.0), Precision("fp16", CPU)
    assert precision.scaler is not None
    scale = precision.scaler.get_scale()
    precision.backward(net(torch.full((1, 2), float("nan"))).sum())
    assert not precision.step(optimizer, precision.clip(optimizer, None))
    assert not precision.lower_scale(lambda: False)
    assert precision.scaler.get_scale() == scale


def test_in_fp16_finite_gradients_whose_norm_overflows_change_nothing_but_the_scale() -> None:
    net = nn.Linear(2, 1, bias=False)
    before = net.weight.detach().clone()
    optimizer, precision = torch.optim.SGD(net.parameters(), lr=1.0), Precision("fp16", CPU)
    assert precision.scaler is not None
    scale = precision.scaler.get_scale()
    precision.backward(net(torch.full((1, 2), 1e30)).sum())
    assert not precision.step(optimizer, precision.clip(optimizer, None))
    assert precision.lower_scale(lambda: True)
    assert torch.equal(net.weight, before)
    assert precision.scaler.get_scale() == scale / 2


def test_in_fp16_an_overflow_at_the_least_scale_is_a_fault() -> None:
    net = nn.Linear(2, 1)
    optimizer, precision = torch.optim.SGD(net.parameters(), lr=1.0), Precision("fp16", CPU)
    assert precision.scaler is not None
    found = []
    for _ in range(18):
        optimizer.zero_grad()
        precision.backward(net(torch.full((1, 2), float("nan"))).sum())
        precision.step(optimizer, precision.clip(optimizer, None))
        found.append(precision.lower_scale(lambda: True))
    assert found == [True] * 16 + [False] * 2
    assert bool(net.weight.isfinite().all())


def test_in_fp32_a_gradient_that_is_not_finite_leaves_the_weights_as_they_are() -> None:
    net = nn.Linear(2, 1)
    before = net.weight.detach().clone()
    optimizer, precision = torch.optim.SGD(net.parameters(), lr=1.0), Precision("fp32", CPU)
    precision.backward(net(torch.full((1, 2), float("nan"))).sum())
    assert not precision.step(optimizer, precision.clip(optimizer, 1.0))
    assert torch.equal(net.weight, before)
