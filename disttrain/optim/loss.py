"""The sum of a micro-batch's losses: the trainer itself divides by the count of the global batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from disttrain.errors import DataError

LossSum = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) -> scalar: the sum over the samples."""

UserLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) -> one loss per sample [n], or a scalar that is their mean, as torch's losses give."""


def build_loss(label_smoothing: float = 0.0, user_loss: UserLoss | None = None) -> LossSum:
    """Cross-entropy with label smoothing, or the user's own loss."""
    if user_loss is None:
        return lambda outputs, targets: _cross_entropy_sum(outputs, targets, label_smoothing)

    def loss_sum(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = user_loss(outputs, targets)
        return losses * len(targets) if losses.ndim == 0 else losses.sum()

    return loss_sum


def _cross_entropy_sum(outputs: torch.Tensor, targets: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    try:
        return functional.cross_entropy(outputs, targets, reduction="sum", label_smoothing=label_smoothing)
    except IndexError:  # on the CPU; a GPU says so later, in its own words
        low, high, classes = int(targets.min()), int(targets.max()), outputs.shape[1]
        raise DataError(
            f"a batch has labels from {low} to {high}, out of range: the network has {classes} outputs, for labels "
            f"0 to {classes - 1}. Correct the dataset's labels, or its class names."
        ) from None
