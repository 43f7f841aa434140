"""What a step changes before it is known whether it counts, so that one that is left out leaves no trace."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from disttrain.tensor_tree import overlaps

Buffers = list[list[torch.Tensor]]
"""The buffers of a network, those of one type together: so they are copied at once."""


class RankState(Protocol):
    """Where a rank keeps what it alone knows, such as the error feedback of a gradient compression."""

    def rank_state(self) -> dict[str, torch.Tensor]: ...

    def load_rank_state(self, state: dict[str, torch.Tensor]) -> None: ...


class StepUndo:
    """Buffers, such as BatchNorm's statistics, and the state of the communication as they were before a step.

    Weights, optimizer and averages change only once a step is known to be finite; random numbers are seeded anew for
    every step.
    """

    def __init__(self, model: nn.Module, compression: RankState | None = None) -> None:
        """`compression`: given where the exchange of gradients has a memory."""
        # By their places: a network may replace a buffer instead of changing it.
        places = [(module._buffers, name) for module in model.modules() for name, _ in _own_buffers(module)]
        self._places: dict[torch.dtype, list[tuple[dict[str, torch.Tensor | None], str]]] = {}
        for owner, name in places:
            self._places.setdefault(_tensor(owner, name).dtype, []).append((owner, name))
        self._compression = compression
        self._before = self.copy_buffers()
        self._rank_state: dict[str, torch.Tensor] = {}

    def copy_buffers(self) -> Buffers:
        """The buffers as they are now."""
        return [[one.detach().clone() for one in group] for group in self._buffers()]

    def _buffers(self) -> Buffers:
        return [[_tensor(owner, name) for owner, name in group] for group in self._places.values()]

    @torch.no_grad()
    def remember(self) -> None:
        """Before a step."""
        for before, now in zip(self._before, self._buffers(), strict=True):
            if [one.shape for one in before] == [one.shape for one in now]:
                torch._foreach_copy_(before, now)
            else:
                before[:] = [one.detach().clone() for one in now]
        if self._compression is not None:
            self._rank_state = {name: one.clone() for name, one in self._compression.rank_state().items()}

    def undo(self) -> None:
        """After a step that is left out."""
        self.put_back(self._before)
        if self._compression is not None:
            self._compression.load_rank_state(self._rank_state)

    @torch.no_grad()
    def put_back(self, buffers: Buffers) -> None:
        """Let the network have these buffers again."""
        for group, before in zip(self._places.values(), buffers, strict=True):
            for (owner, name), old in zip(group, before, strict=True):
                now = _tensor(owner, name)
                if now.shape == old.shape and not overlaps(now):
                    now.copy_(old)
                else:
                    owner[name] = old.clone()


def _own_buffers(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, one) for name, one in module._buffers.items() if one is not None]


def _tensor(owner: dict[str, torch.Tensor | None], name: str) -> torch.Tensor:
    found = owner[name]
    assert found is not None
    return found
