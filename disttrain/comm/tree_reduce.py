"""Gradients of shards, added along one tree while the backward pass of the last shard goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from disttrain.comm.background import Background
from disttrain.comm.buckets import make_buckets, view_like
from disttrain.comm.tree import Node, TreeSum
from disttrain.comm.tree_exchange import TreeExchange
from disttrain.errors import ConfigError

_ALIGNMENT = 64  # bytes: kernels see gradients in a bucket as they see tensors of their own


class _Bucket:
    """Parameters whose gradients travel together. The layout changes no bit: sums are formed value by value."""

    def __init__(self, parameters: list[nn.Parameter], exchange: TreeExchange) -> None:
        step = _ALIGNMENT // parameters[0].element_size()
        starts, length = [], 0
        for parameter in parameters:
            starts.append(length)
            length += -(-parameter.numel() // step) * step
        self.sums, self.received = exchange.buffers(length, parameters[0])
        self.gradients = [
            _Gradient(parameter, [view_like(parameter, flat, start) for flat in self.sums], self)
            for parameter, start in zip(parameters, starts, strict=True)
        ]
        self.missing = len(parameters)
        """How many parameters' sums are not complete yet."""


class _Gradient:
    """The gradients of one parameter in one step: its partial sums over the shards so far."""

    def __init__(self, parameter: nn.Parameter, sums: list[torch.Tensor], bucket: _Bucket) -> None:
        self.parameter, self.sums, self.bucket = parameter, sums, bucket
        self.tree: TreeSum[torch.Tensor] = TreeSum(torch.Tensor.add_)
        self.shard = -1
        """The shard that was added last."""

    @torch.no_grad()
    def take(self, shard: int, root: int | None) -> None:
        """Add what lies in `.grad` as the gradient of a shard, zeros where the network did not use the parameter.

        `root` is the number of this rank's root whose leftmost shard it is: its sum grows in the bucket's memory.
        """
        gradient = self.parameter.grad
        self.parameter.grad = None  # the next shard begins anew
        if gradient is None:
            gradient = torch.zeros_like(self.parameter)
        if gradient.layout != torch.strided:
            raise ConfigError(
                f"a parameter of shape {list(self.parameter.shape)} has a gradient of layout {gradient.layout}, and "
                "batch.shards adds dense ones only. Use sparse=False in its layer, or batch.shards=0."
            )
        if root is not None:
            gradient = self.sums[root].copy_(gradient)
        self.tree.push(Node(0, shard), gradient)
        self.shard = shard


class TreeReducer:
    """The sum of the shards' gradients over all ranks, for parameters that a hook watches."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        exchange: TreeExchange,
        bucket_mib: float | None,
        background: Background,
    ) -> None:
        self.exchange, self.background = exchange, background
        self._root_of = {node.shards.start: root for root, node in enumerate(exchange.roots)}
        self._buckets = [_Bucket(group, exchange) for group in make_buckets(parameters, bucket_mib)]
        self._gradients = [one for bucket in self._buckets for one in bucket.gradients]
        self._hooks = [one.parameter.register_post_accumulate_grad_hook(self._taker(one)) for one in self._gradients]
        self.shard: int | None = None
        """The shard whose last micro-batch is in its backward pass: gradients that arrive are those of the shard."""
        self._sent = 0
        for parameter in parameters:
            parameter.grad = None  # what lies there would be added to the first shard's

    def _taker(self, gradient: _Gradient) -> Callable[[torch.Tensor], None]:
        def gradient_is_ready(_: torch.Tensor) -> None:
            if self.shard is not None:
                self._take(gradient, self.shard)

        return gradient_is_ready

    def _take(self, gradient: _Gradient, shard: int) -> None:
        gradient.take(shard, self._root_of.get(shard))
        if shard == self.exchange.shards[-1]:
            gradient.bucket.missing -= 1
            self._send_complete_buckets()

    def _send_complete_buckets(self) -> None:
        """In one order on every rank, whatever the order in which they are completed."""
        while self._sent < len(self._buckets) and self._buckets[self._sent].missing == 0:
            bucket = self._buckets[self._sent]
            self._sent += 1
            if self.exchange.world_size > 1:
                self.background.submit(partial(self.exchange.add_up, bucket.sums, bucket.received))

    def end_shard(self, shard: int) -> None:
        """After the backward pass: parameters that had no part in it count as zero."""
        for gradient in self._gradients:
            if gradient.shard != shard:
                self._take(gradient, shard)

    def finish(self) -> None:
        """After the last shard: `.grad` becomes the sum over all shards, and the next step may begin."""
        if self.exchange.world_size > 1:
            self.background.wait()
        for gradient in self._gradients:
            gradient.tree.pop_all()
            gradient.shard = -1
            gradient.parameter.grad = gradient.sums[0]
        for bucket in self._buckets:
            bucket.missing = len(bucket.gradients)
        self._sent = 0

    def close(self) -> None:
        """Leave the parameters alone from now on."""
        self.background.close()
        for hook in self._hooks:
            hook.remove()
