"""BatchNorm with shards: each shard is normalised by itself, and the running statistics move by the mean over them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from disttrain.comm.tree import Node, TreeSum
from disttrain.comm.tree_exchange import TreeExchange
from disttrain.errors import ConfigError


class ShardStatistics:
    """The running statistics of a network's BatchNorm layers over the shards of a step.

    Every shard begins with the statistics from before the step. Those that it ends with are added along the tree of the
    shards, and divided by the number of shards that had samples.
    """

    def __init__(self, model: nn.Module, exchange: TreeExchange) -> None:
        self._exchange = exchange
        layers = {name: one for name, one in model.named_modules() if isinstance(one, _NormBase)}
        self._layers = [one for one in layers.values() if one.running_mean is not None]
        known = {f"{layer}.{name}" for layer, one in layers.items() for name, _ in one.named_buffers(recurse=False)}
        self._model, self._other_buffers = model, [name for name, _ in model.named_buffers() if name not in known]
        self._versions: dict[str, tuple[int, int]] = {}
        self._is_checked = not self._other_buffers
        self._statistics: list[torch.Tensor] = []
        self._counts: list[torch.Tensor] = []
        self._before: list[torch.Tensor] = []
        self._tree: TreeSum[torch.Tensor] = TreeSum(torch.Tensor.add_)

    @torch.no_grad()
    def begin_shard(self) -> None:
        """Before the first micro-batch of a shard: the statistics from before the step."""
        if not self._is_checked:
            self._versions = self._look()
        if not self._layers:
            return
        if not self._before:
            training = [one for one in self._layers if one.training]  # layers that are frozen keep theirs
            values = [value for one in training for value in (one.running_mean, one.running_var)]
            self._statistics = [value for value in values if value is not None]
            self._counts = [one.num_batches_tracked for one in training if one.num_batches_tracked is not None]
            self._before = [value.clone() for value in (*self._statistics, *self._counts)]
        else:
            torch._foreach_copy_([*self._statistics, *self._counts], self._before)

    @torch.no_grad()
    def end_shard(self, shard: int, weight: float) -> None:
        """After the last micro-batch of a shard; `weight` 0 for one without samples. Raises ConfigError."""
        if not self._is_checked and self._versions != self._look():
            changed = [name for name, version in self._look().items() if version != self._versions.get(name)]
            raise ConfigError(
                f"the network changes its buffer {changed[0]!r} in the forward pass, and what becomes of it would "
                "depend on which shards a rank has: batch.shards knows BatchNorm's statistics only. Use batch.shards=0 "
                "or a network that keeps no state between batches."
            )
        if self._statistics:
            values = torch.cat([value.flatten() for value in self._statistics] + [self._statistics[0].new_ones(1)])
            self._tree.push(Node(0, shard), values if weight else torch.zeros_like(values))

    @torch.no_grad()
    def finish(self) -> None:
        """After the last shard: the mean over the shards, on every rank."""
        self._is_checked = True
        if not self._statistics:
            return
        roots = [value for _, value in self._tree.pop_all()]
        length = len(roots[0])
        sums, received = self._exchange.buffers(length, roots[0])
        for flat, root in zip(sums, roots, strict=True):
            flat[:length].copy_(root)
        self._exchange.add_up(sums, received)
        total = sums[0][:length]
        means = (total[:-1] / total[-1]).split([value.numel() for value in self._statistics])
        for value, mean in zip(self._statistics, means, strict=True):
            value.copy_(mean.view_as(value))
        for count, before in zip(self._counts, self._before[len(self._statistics) :], strict=True):
            count.copy_(before + 1)  # the statistics have moved once
        self._before = []

    def _look(self) -> dict[str, tuple[int, int]]:
        buffers = dict(self._model.named_buffers())
        return {name: (id(buffers[name]), buffers[name]._version) for name in self._other_buffers}
