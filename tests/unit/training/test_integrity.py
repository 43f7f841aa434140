"""The checksum of the weights sees every bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from disttrain.training.integrity import weights_checksum

_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def network(dtype: torch.dtype, channels_last: bool = False) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Linear(7, 3)).to(dtype)
    return net.to(memory_format=torch.channels_last) if channels_last else net


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_any_flipped_bit_changes_the_checksum(dtype: torch.dtype, channels_last: bool) -> None:
    net = network(dtype, channels_last)
    before = weights_checksum(net)
    assert weights_checksum(net) == before
    for parameter in net.parameters():
        flat = torch.as_strided(parameter.detach(), (parameter.numel(),), (1,))
        words = flat.view(_WORDS[flat.element_size()])
        for place in (0, len(words) // 2, len(words) - 1):
            for bit in range(8 * flat.element_size() - 1):
                words[place] ^= 1 << bit
                assert weights_checksum(net) != before
                words[place] ^= 1 << bit
    assert weights_checksum(net) == before


def test_the_checksum_of_weights_of_every_layout_is_the_sum_of_their_bits() -> None:
    parameter = nn.Parameter(torch.arange(6.0).view(2, 3).t())  # not dense in memory order
    module = nn.Module()
    module.weight = parameter
    assert int(weights_checksum(module)) == int(parameter.detach().contiguous().view(torch.int64).sum())


def test_a_network_without_weights_has_a_checksum_too() -> None:
    assert int(weights_checksum(nn.Identity())) == 0
