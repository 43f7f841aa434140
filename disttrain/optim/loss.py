"""The sum of a micro-batch's losses: the trainer itself divides by the count of the global batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from disttrain.errors import ConfigError, DataError
from disttrain.tensor_tree import count_of

LossSum = Callable[[Any, Any], torch.Tensor]
"""(outputs, targets) -> scalar: the sum over the samples."""

UserLoss = Callable[[Any, Any], torch.Tensor]
"""(outputs, targets) -> one loss per sample [n], or a scalar: their mean, as torch's losses give, or their sum."""


def build_loss(label_smoothing: float = 0.0, user_loss: UserLoss | None = None, scalar_is_sum: bool = False) -> LossSum:
    """Cross-entropy with label smoothing, or the user's own loss, whose scalar is a mean unless `scalar_is_sum`."""
    if user_loss is None:
        return lambda outputs, targets: _cross_entropy_sum(outputs, targets, label_smoothing)

    def loss_sum(outputs: Any, targets: Any) -> torch.Tensor:
        losses = user_loss(outputs, targets)
        if losses.ndim == 0:
            return losses if scalar_is_sum else losses * count_of(targets)
        check_shape(losses, count_of(targets))
        return losses.sum()

    return loss_sum


def check_shape(losses: torch.Tensor, count: int) -> None:
    """Raise ConfigError unless there is one loss for each of `count` samples."""
    if losses.shape not in ((count,), (count, 1)):
        raise ConfigError(
            f"the loss gave {list(losses.shape)} for {count} samples: expected one loss per sample, [{count}], or a "
            "scalar, their mean or sum. Reduce losses per class or pixel first, e.g. loss.flatten(1).mean(1)."
        )


def _cross_entropy_sum(outputs: torch.Tensor, targets: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    try:
        total = functional.cross_entropy(outputs, targets, reduction="sum", label_smoothing=label_smoothing)
    except IndexError:  # on the CPU; a GPU says so later, in its own words
        low, high, classes = int(targets.min()), int(targets.max()), outputs.shape[1]
        raise DataError(
            f"a batch has labels from {low} to {high}, out of range: the network has {classes} outputs, for labels "
            f"0 to {classes - 1}. Correct the dataset's labels, or its class names."
        ) from None
    return total / math.prod(outputs.shape[2:]) if outputs.ndim > 2 else total
