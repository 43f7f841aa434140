"""Running statistics over the shards of a step, and networks that keep another state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from disttrain.comm.shard_statistics import ShardStatistics
from disttrain.comm.tree_exchange import TreeExchange
from disttrain.errors import ConfigError

from ..helpers import not_none


class Net(nn.Module):
    """BatchNorm, and a buffer that counts forward passes where it is asked to."""

    calls: torch.Tensor

    def __init__(self, counts: bool) -> None:
        super().__init__()
        self.norm, self.counts = nn.BatchNorm1d(2), counts
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.counts:
            self.calls += 1
        return self.norm(inputs)


def shards() -> list[torch.Tensor]:
    return list(torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0)))


def test_statistics_move_by_the_mean_over_the_shards_that_have_samples() -> None:
    net = Net(counts=False)
    statistics = ShardStatistics(net, TreeExchange(4, 0, 1))
    for shard, inputs in enumerate(shards()):
        is_empty = shard == 1
        statistics.begin_shard()
        net(inputs)
        statistics.end_shard(shard, 0.0 if is_empty else 1.0)
        net.calls.zero_()  # as buffers are put back after a shard without samples: no change of the network's own
    statistics.finish()
    expected = 0.1 * torch.stack([one.mean(0) for at, one in enumerate(shards()) if at != 1]).mean(0)
    torch.testing.assert_close(net.norm.running_mean, expected)
    assert not_none(net.norm.num_batches_tracked).item() == 1


def test_a_network_with_another_state_is_refused_in_the_first_shard() -> None:
    net = Net(counts=True)
    statistics = ShardStatistics(net, TreeExchange(4, 0, 1))
    statistics.begin_shard()
    net(shards()[0])
    with pytest.raises(ConfigError, match="the network changes its buffer 'calls' in the forward pass"):
        statistics.end_shard(0, 1.0)
