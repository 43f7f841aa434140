"""Gradients averaged by Horovod (Sergeev and Del Balso 2018), over MPI, gloo or NCCL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from disttrain.comm.buckets import make_buckets, view_like
from disttrain.config.sections import CommConfig
from disttrain.data.pipeline import MicroBatch
from disttrain.errors import PeerLostError
from disttrain.launch.env import RankEnv
from disttrain.telemetry.phases import WAITING, PhaseTimer


class _Bucket:
    """Parameters whose gradients travel together, always in the same order: the layout decides in which order ranks
    are added up, so a run that is repeated or resumed gives the same bits."""

    def __init__(self, name: str, parameters: list[nn.Parameter], compression: str) -> None:
        self.name, self.parameters = name, parameters
        first = parameters[0]
        dtype = torch.float16 if compression == "fp16" else first.dtype
        self.flat = torch.zeros(sum(one.numel() for one in parameters), dtype=dtype, device=first.device)
        pieces = self.flat.split([one.numel() for one in parameters])
        # In the parameter's memory order, so that copying in and out is one pass over both.
        self.views = [
            view_like(one, self.flat, int(piece.storage_offset()))
            for piece, one in zip(pieces, parameters, strict=True)
        ]
        self.missing = len(parameters)
        self.handle: Any = None

    def gradients(self) -> list[torch.Tensor]:
        """Zeros for a parameter that was not used in this step on this rank: on another it may have been."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]


class HorovodComm:
    """One rank's end of Horovod. See `Comm` for what each method is for."""

    def __init__(
        self, config: CommConfig, env: RankEnv, device: torch.device, phases: PhaseTimer, horovod: Any
    ) -> None:
        self.config, self.device, self._phases, self._hvd = config, device, phases, horovod
        self.rank, self.world_size, self.grad_divisor = env.rank, env.world_size, env.world_size
        self._buckets: list[_Bucket] = []
        self._hooks: list[RemovableHandle] = []
        self._accumulates = False
        self._op = horovod.Adasum if config.adasum else horovod.Average

    def wrap(self, model: nn.Module) -> nn.Module:
        """See `Comm.wrap`. The network stays itself: hooks on its parameters send each gradient as it is ready."""
        if self.world_size == 1:
            return model
        self._broadcast(model.state_dict())
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [[one] for one in trainable] if self.config.adasum else make_buckets(trainable, self.config.bucket_mib)
        self._buckets = [
            _Bucket(f"gradients/{index}", group, self.config.compression) for index, group in enumerate(groups)
        ]
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._sender(bucket)))
        return model

    def _sender(self, bucket: _Bucket) -> Callable[[torch.Tensor], None]:
        def gradient_is_ready(parameter: torch.Tensor) -> None:
            if self._accumulates:
                return
            bucket.missing -= 1
            if bucket.missing == 0:
                self._send(bucket)
                if bucket is self._buckets[-1]:
                    self._phases.enter(WAITING)

        return gradient_is_ready

    @torch.no_grad()
    def _send(self, bucket: _Bucket) -> None:
        torch._foreach_copy_(bucket.views, bucket.gradients())
        # A group of one: Horovod can be told to leave groups as they are (HOROVOD_DISABLE_GROUP_FUSION).
        bucket.handle = self._hvd.grouped_allreduce_async_([bucket.flat], name=bucket.name, op=self._op)

    def fix_reduction_order(self, model: nn.Module, backward_once: Callable[[], None]) -> None:
        """Nothing: the buckets are fixed from the start."""

    @contextlib.contextmanager
    def scope(self, model: nn.Module, micro: MicroBatch) -> Iterator[None]:
        """See `Comm.scope`."""
        self._accumulates = not micro.is_last
        try:
            yield
        finally:
            self._accumulates = False

    @torch.no_grad()
    def wait_grads(self) -> None:
        """See `Comm.wait_grads`."""
        with self._waiting():
            for bucket in self._buckets:
                if bucket.handle is None:
                    self._send(bucket)
            for bucket in self._buckets:
                self._hvd.synchronize(bucket.handle)
                bucket.handle, bucket.missing = None, len(bucket.parameters)
        for bucket in self._buckets:
            torch._foreach_copy_(bucket.gradients(), bucket.views)

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `Comm.all_reduce`."""
        if self.world_size > 1:
            with self._waiting():
                self._hvd.allreduce_(tensor, op=self._hvd.Sum)
        return tensor

    def broadcast_buffers(self, model: nn.Module) -> None:
        """See `Comm.share_buffers`."""
        if self.world_size > 1:
            self._broadcast(dict(model.named_buffers()))

    @torch.no_grad()
    def _broadcast(self, tensors: dict[str, torch.Tensor]) -> None:
        with self._waiting():
            for name, tensor in tensors.items():
                tensor.copy_(self._hvd.broadcast(tensor.detach().contiguous(), root_rank=0, name=name))

    def barrier(self) -> None:
        """See `Comm.barrier`."""
        if self.world_size > 1:
            with self._waiting():
                self._hvd.barrier()

    def rank_state(self) -> dict[str, torch.Tensor]:
        """Nothing: no compression of Horovod's has a memory."""
        return {}

    def load_rank_state(self, state: dict[str, torch.Tensor]) -> None:
        """See `rank_state`."""

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """A wait for the other ranks; Horovod's own error for a lost one becomes ours."""
        with self._phases.during(WAITING):
            try:
                yield
            except RuntimeError as error:
                if type(error).__name__ != "HorovodInternalError":
                    raise
                first_line = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
                raise PeerLostError(f"lost the connection to a peer (Horovod: {first_line})") from error

    def close(self) -> None:
        """See `Comm.close`. The network is the user's again, who may train it once more."""
        for hook in self._hooks:
            hook.remove()
        if not self._hvd.mpi_enabled():  # MPI starts once in a process: there it is left at the very end
            self._hvd.shutdown()
