"""What the trainer asks of a communication backend."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from disttrain.data.pipeline import MicroBatch


class Comm(Protocol):
    """One rank's end of the connection to all others: `DdpComm`, `TreeComm` or `HorovodComm`.

    Every method is called on every rank, in the same order. With one rank there is nobody to talk to: the network
    stays as it is and every verb does nothing.
    """

    rank: int
    world_size: int
    device: torch.device
    grad_divisor: int
    """What the sum of all ranks' gradients has been divided by after `wait_grads`: world_size where they are averaged,
    1 where they are added up."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """The network with rank zero's weights on every rank, and gradients reduced over ranks during backward."""
        ...

    def fix_reduction_order(self, model: nn.Module, backward_once: Callable[[], None]) -> None:
        """Fix the order in which gradients are added up, before the first step."""
        ...

    def scope(self, model: nn.Module, micro: MicroBatch) -> contextlib.AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch. Up to the last of its share, gradients stay on this rank."""
        ...

    def wait_grads(self) -> None:
        """Return once the gradients are those of the whole global batch."""
        ...

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in place."""
        ...

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Rank zero's buffers on every rank: after a step each has running statistics of BatchNorm of its own."""
        ...

    def barrier(self) -> None:
        """Wait for every rank."""
        ...

    def rank_state(self) -> dict[str, torch.Tensor]:
        """What this rank alone knows and a resumed run needs: the error feedback of a compression, say."""
        ...

    def load_rank_state(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what `rank_state` gave."""
        ...

    def close(self) -> None:
        """Leave the others."""
        ...


def gather(comm: Comm, values: list[float]) -> torch.Tensor:
    """float64 [world_size, len(values)] on the CPU: every rank's values, on every rank."""
    table = torch.zeros(comm.world_size, len(values), dtype=torch.float64, device=comm.device)
    table[comm.rank] = torch.tensor(values, dtype=torch.float64)
    return comm.all_reduce(table).cpu()
