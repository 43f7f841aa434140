"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from disttrain.optim.ema import WeightAverage


def test_the_average_follows_its_formula_with_the_rising_decay() -> None:
    net = nn.Linear(3, 2)
    average = WeightAverage(net, decay=0.9)
    expected = net.weight.detach().clone()
    for step in range(200):
        with torch.no_grad():
            net.weight.add_(torch.sin(torch.arange(6.0).view(2, 3) + step))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net.weight.detach()
    assert torch.allclose(average.averages[0], expected, atol=1e-5)


def test_within_applied_the_network_has_the_averages_and_afterwards_its_weights_again() -> None:
    net = nn.Linear(3, 2)
    average = WeightAverage(net, decay=0.5)
    start = net.weight.detach().clone()
    with torch.no_grad():
        net.weight.add_(1)
    trained = net.weight.detach().clone()
    with average.applied():
        assert torch.equal(net.weight, start)
        assert torch.equal(net.state_dict()["weight"], start)
    assert torch.equal(net.weight, trained)
    with pytest.raises(RuntimeError, match="inside"), average.applied():
        raise RuntimeError("inside")
    assert torch.equal(net.weight, trained)


def test_the_optimizer_goes_on_with_the_weights_after_applied() -> None:
    net = nn.Linear(1, 1, bias=False)
    optimizer, average = torch.optim.SGD(net.parameters(), lr=1.0), WeightAverage(net, 0.5)
    with average.applied():
        pass
    net.weight.grad = torch.ones(1, 1)
    before = net.weight.item()
    optimizer.step()
    assert net.weight.item() == before - 1
