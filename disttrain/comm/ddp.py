"""Gradients averaged by torch's DistributedDataParallel, over NCCL on GPUs and gloo elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore, Store
from torch.nn.parallel import DistributedDataParallel

from disttrain.config.sections import CommConfig

_POWERSGD_FIRST_STEPS = 10  # plain steps before PowerSGD, while gradients still turn quickly


@contextlib.contextmanager
def _nothing_on_standard_output() -> Iterator[None]:
    """What is printed there goes to standard error: gloo (torch 2.9) greets on it, which is for results alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class DdpComm:
    """One rank's end of the process group, and the network wrapped for it.

    With one rank there is nobody to talk to: the network stays as it is and every verb does nothing.
    """

    def __init__(self, config: CommConfig, store: Store, rank: int, world_size: int, device: torch.device) -> None:
        self.config, self.rank, self.world_size, self.device = config, rank, world_size, device
        backend = "nccl" if device.type == "cuda" else "gloo"
        with _nothing_on_standard_output():
            dist.init_process_group(
                backend,
                store=PrefixStore("process_group", store),
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=config.timeout_s),
                device_id=device if device.type == "cuda" else None,
            )

    def wrap(self, model: nn.Module) -> nn.Module:
        """The network with rank zero's weights on every rank and gradients averaged during backward."""
        if self.world_size == 1 or not any(p.requires_grad for p in model.parameters()):
            return model
        wrapped = DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            bucket_cap_mb=self.config.bucket_mib,
            gradient_as_bucket_view=True,
        )
        self._register_compression(wrapped)
        return wrapped

    def _register_compression(self, wrapped: DistributedDataParallel) -> None:
        if self.config.compression == "bf16":
            from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

            wrapped.register_comm_hook(None, bf16_compress_hook)
        elif self.config.compression == "powersgd":
            from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

            state = PowerSGDState(
                None, self.config.powersgd_rank, start_powerSGD_iter=_POWERSGD_FIRST_STEPS, random_seed=0
            )
            wrapped.register_comm_hook(state, powerSGD_hook)

    @torch.no_grad()
    def settle(self, model: nn.Module, backward_once: Callable[[], None]) -> None:
        """Let DDP arrange its gradient buckets now, with one backward pass that leaves no trace.

        DDP arranges them after the first pass of every start, and with more than two ranks the layout decides in
        which order gloo and NCCL add: a resumed run would differ in the last bit from one never interrupted.
        """
        if not isinstance(model, DistributedDataParallel):
            return
        buffers = [buffer.clone() for buffer in model.buffers()]
        with torch.enable_grad():
            backward_once()
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        model.zero_grad(set_to_none=True)

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Within it, backward adds to this rank's gradients only: all micro-batches of a step but the last."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext()

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def share_buffers(self, model: nn.Module) -> None:
        """Rank zero's buffers on every rank: after a step each has running statistics of BatchNorm of its own."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the process group."""
        dist.destroy_process_group()
