"""Gradients added over shards along one tree: the same bits on any number of ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import Store

from disttrain.comm.background import Background
from disttrain.comm.ddp import DdpComm
from disttrain.comm.shard_statistics import ShardStatistics
from disttrain.comm.tree_exchange import TreeExchange
from disttrain.comm.tree_reduce import TreeReducer
from disttrain.config import Config
from disttrain.data.pipeline import MicroBatch
from disttrain.telemetry.phases import WAITING, PhaseTimer


class TreeComm(DdpComm):
    """One rank's end of torch's process group, without DistributedDataParallel. See `Comm` for the methods."""

    def __init__(
        self,
        config: Config,
        store: Store,
        rank: int,
        world_size: int,
        device: torch.device,
        phases: PhaseTimer,
        interface: str | None = None,
    ) -> None:
        """See `DdpComm.__init__`."""
        super().__init__(config.comm, store, rank, world_size, device, phases, interface)
        self.grad_divisor = 1
        self._exchange = TreeExchange(config.batch.shards, rank, world_size)
        self._reducer: TreeReducer | None = None
        self._statistics: ShardStatistics | None = None

    @torch.no_grad()
    def wrap(self, model: nn.Module) -> nn.Module:
        """See `Comm.wrap`. The network stays itself: hooks on its parameters take each gradient as it is ready."""
        if self.world_size > 1:
            for tensor in (*model.parameters(), *model.buffers()):
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        background = Background(self.device)
        self._reducer = TreeReducer(trainable, self._exchange, self.config.bucket_mib, background)
        self._statistics = ShardStatistics(model, self._exchange)
        return model

    def fix_reduction_order(self, model: nn.Module, backward_once: Callable[[], None]) -> None:
        """Nothing: the tree is fixed."""

    @contextlib.contextmanager
    def scope(self, model: nn.Module, micro: MicroBatch) -> Iterator[None]:
        """See `Comm.scope`."""
        assert self._reducer is not None
        assert self._statistics is not None
        if micro.is_first:
            self._statistics.begin_shard()
        self._reducer.shard = micro.share if micro.is_last else None
        try:
            yield
        finally:
            self._reducer.shard = None
        if micro.is_last:
            self._reducer.end_shard(micro.share)
            self._statistics.end_shard(micro.share, micro.weight)

    def wait_grads(self) -> None:
        """See `Comm.wait_grads`."""
        assert self._reducer is not None
        assert self._statistics is not None
        with self._phases.during(WAITING):
            self._reducer.finish()
            self._statistics.finish()

    def close(self) -> None:
        """See `Comm.close`. The network is the user's again, who may train it once more."""
        if self._reducer is not None:
            self._reducer.close()
        super().close()
