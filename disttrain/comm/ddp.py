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

from disttrain.comm.network_interface import told_to_libraries
from disttrain.config.sections import CommConfig
from disttrain.data.pipeline import MicroBatch
from disttrain.telemetry.phases import WAITING, PhaseTimer

_POWERSGD_FIRST_STEPS = 10  # plain steps before PowerSGD, while gradients still turn quickly
_POWERSGD_TENSORS = ("error_dict", "p_memory_dict", "q_memory_dict")
_BEYOND_WATCHDOG_S = 15.0  # the watchdog ends a wait with a report; the process group's own timeout is the backstop


@contextlib.contextmanager
def nothing_on_standard_output() -> Iterator[None]:
    """What is printed there goes to standard error: gloo (torch 2.9) greets on it, which is for results alone."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class DdpComm:
    """One rank's end of torch's process group. See `Comm` for what each method is for."""

    def __init__(
        self,
        config: CommConfig,
        store: Store,
        rank: int,
        world_size: int,
        device: torch.device,
        phases: PhaseTimer | None = None,
        interface: str | None = None,
    ) -> None:
        """`interface`: the network interface that leads to the other ranks. Without one gloo looks up this host's name,
        for minutes where no name server answers."""
        self.config, self.rank, self.world_size, self.device = config, rank, world_size, device
        self.grad_divisor = world_size
        self._phases = phases or PhaseTimer()
        self._powersgd: Any = None
        backend = "nccl" if device.type == "cuda" else "gloo"
        with nothing_on_standard_output(), told_to_libraries(interface):
            dist.init_process_group(
                backend,
                store=PrefixStore("process_group", store),
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=config.timeout_s + _BEYOND_WATCHDOG_S),
                device_id=device if device.type == "cuda" else None,
            )

    def wrap(self, model: nn.Module) -> nn.Module:
        """See `Comm.wrap`."""
        if self.world_size == 1 or not any(p.requires_grad for p in model.parameters()):
            return model
        wrapped = DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            bucket_cap_mb=self.config.bucket_mib,
            gradient_as_bucket_view=True,
        )
        self._register_compression(wrapped)
        # The first layer's gradient comes last: from there on, backward waits for the other ranks.
        last = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        last.register_post_accumulate_grad_hook(lambda _: self._phases.enter(WAITING))
        return wrapped

    def _register_compression(self, wrapped: DistributedDataParallel) -> None:
        if self.config.compression in ("bf16", "fp16"):
            from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook

            hook = bf16_compress_hook if self.config.compression == "bf16" else fp16_compress_hook
            wrapped.register_comm_hook(None, hook)
        elif self.config.compression == "powersgd":
            from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

            self._powersgd = PowerSGDState(
                None, self.config.powersgd_rank, start_powerSGD_iter=_POWERSGD_FIRST_STEPS, random_seed=0
            )
            wrapped.register_comm_hook(self._powersgd, powerSGD_hook)

    @torch.no_grad()
    def fix_reduction_order(self, model: nn.Module, backward_once: Callable[[], None]) -> None:
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

    def scope(self, model: nn.Module, micro: MicroBatch) -> contextlib.AbstractContextManager[Any]:
        """See `Comm.scope`."""
        if isinstance(model, DistributedDataParallel) and not micro.is_last:
            return model.no_sync()
        return contextlib.nullcontext()

    def wait_grads(self) -> None:
        """Nothing: the last backward of a step returns only when DDP has all gradients."""

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `Comm.all_reduce`."""
        if self.world_size > 1:
            with self._phases.during(WAITING):
                dist.all_reduce(tensor)
        return tensor

    def broadcast_buffers(self, model: nn.Module) -> None:
        """See `Comm.share_buffers`."""
        if self.world_size > 1:
            with self._phases.during(WAITING):
                for buffer in model.buffers():
                    dist.broadcast(buffer, src=0)

    def barrier(self) -> None:
        """See `Comm.barrier`."""
        if self.world_size > 1:
            with self._phases.during(WAITING):
                dist.barrier()

    def rank_state(self) -> dict[str, torch.Tensor]:
        """PowerSGD's error feedback and factors, by bucket."""
        if self._powersgd is None:
            return {}
        state = {"iter": torch.tensor(self._powersgd.iter)}
        for name in _POWERSGD_TENSORS:
            state |= {f"{name}/{bucket}": tensor for bucket, tensor in getattr(self._powersgd, name).items()}
        return state

    def load_rank_state(self, state: dict[str, torch.Tensor]) -> None:
        """See `Comm.load_rank_state`."""
        if self._powersgd is None:
            return
        self._powersgd.iter = int(state["iter"])
        for name in _POWERSGD_TENSORS:
            found = {key.split("/")[1]: tensor for key, tensor in state.items() if key.startswith(f"{name}/")}
            held = getattr(self._powersgd, name)
            held.clear()
            held.update({int(k): tensor.to(self.device) for k, tensor in found.items()})

    def close(self) -> None:
        """See `Comm.close`."""
        dist.destroy_process_group()
