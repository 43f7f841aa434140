"""fp32, bf16 or fp16: how the forward pass computes, and how gradients are scaled for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
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

    def clip(self, optimizer: torch.optim.Optimizer, max_norm: float | None) -> torch.Tensor:
        """The norm of the whole gradient before clipping (a scalar tensor); clips to `max_norm` where one is given."""
        if self.scaler:
            self.scaler.unscale_(optimizer)
        # Not `model.parameters()`: to walk through the modules takes longer than the norm does.
        parameters = [one for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        norm = nn.utils.get_total_norm([one.grad for one in parameters])
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def step(self, optimizer: torch.optim.Optimizer, norm: torch.Tensor) -> bool:
        """The optimizer's step, left out on every rank alike where the gradient's norm is not finite.

        Returns whether it was made.
        """
        if not norm.isfinite():
            return False
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()
        return True

    def lower_scale(self, loss_is_finite: Callable[[], bool]) -> bool:
        """After a step that was left out, on every rank alike: whether that was but an overflow in fp16, which a scale
        half as large may hold. A loss that is not finite is none: it does not depend on the scale, which stays."""
        if self.scaler is None:
            return False
        scale = self.scaler.get_scale()
        is_overflow = loss_is_finite() and scale > 1
        if is_overflow:
            self.scaler.update()
        if not is_overflow or self.scaler.get_scale() > scale / 2:  # of finite gradients the norm alone may overflow
            self.scaler.update(scale / 2 if is_overflow else scale)
        return is_overflow
