"""A micro-batch's loss is a sum, whichever way the user's loss comes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from disttrain.errors import DataError
from disttrain.optim.loss import build_loss

OUTPUTS = torch.linspace(-2, 2, 12).view(4, 3)
TARGETS = torch.tensor([0, 2, 1, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_summed_over_samples(smoothing: float) -> None:
    log_p = OUTPUTS.log_softmax(1)
    spread = torch.full((4, 3), smoothing / 3)
    spread[range(4), TARGETS] += 1 - smoothing
    assert torch.allclose(build_loss(smoothing)(OUTPUTS, TARGETS), -(spread * log_p).sum())


def test_a_users_mean_and_its_losses_per_sample_give_the_same_sum() -> None:
    expected = functional.cross_entropy(OUTPUTS, TARGETS, reduction="sum")
    for reduction in ("mean", "none"):

        def users(o: torch.Tensor, t: torch.Tensor, reduction: str = reduction) -> torch.Tensor:
            return functional.cross_entropy(o, t, reduction=reduction)

        loss = build_loss(0.1, users)
        assert torch.allclose(loss(OUTPUTS, TARGETS), expected)


def test_a_sum_of_parts_is_the_sum_of_the_whole() -> None:
    loss = build_loss()
    parts = loss(OUTPUTS[:1], TARGETS[:1]) + loss(OUTPUTS[1:], TARGETS[1:])
    assert torch.allclose(parts, loss(OUTPUTS, TARGETS))


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_out_of_range_is_a_data_error(label: int) -> None:
    with pytest.raises(DataError, match="out of range: the network has 3 outputs, for labels 0 to 2"):
        build_loss()(OUTPUTS, torch.tensor([0, label, 1, 1]))
