"""fp32, bf16 or fp16: how the forward pass computes, and how gradients are scaled for it."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn


class Precision:
    """Autocast for the forward pass; for fp16 also a gradient scaler (Micikevicius et al. 2018)."""

    def __init__(self, name: str, device: torch.device) -> None:
        dtypes = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
        self.dtype, self.device = dtypes[name], device
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of the forward pass and the loss."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def backward(self, loss: torch.Tensor) -> None:
        """Backward of the loss, scaled where gradients would otherwise vanish in fp16."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def clip(self, optimizer: torch.optim.Optimizer, model: nn.Module, max_norm: float | None) -> torch.Tensor:
        """The norm of the whole gradient before clipping (a scalar tensor); clips to `max_norm` where one is given."""
        if self.scaler:
            self.scaler.unscale_(optimizer)
        parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's step. In fp16 it is left out where a gradient overflowed, on every rank alike."""
        if self.scaler:
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()
