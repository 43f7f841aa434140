"""What a network gives for some samples: whether it can be cut into rows, and be taken for class scores."""

from __future__ import annotations

from typing import Any

import torch

from disttrain.errors import ConfigError, DataError
from disttrain.tensor_tree import describe, tensors_of


def check_class_scores(outputs: Any, targets: Any, names: tuple[str, ...] = ()) -> None:
    """What cross-entropy takes. Raises ConfigError about outputs, DataError about targets."""
    if not isinstance(outputs, torch.Tensor) or outputs.ndim < 2:
        raise ConfigError(
            f"the network gives {describe(outputs)}: cross-entropy takes one tensor of class scores [n, classes]. "
            "Return that, or give a loss of your own: loss=lambda outputs, targets: ..."
        )
    if len(names) == 1:
        raise DataError(
            f"the data has a single class, {names[0]!r}: there is nothing to tell apart. Give it a second one, or a "
            "loss of your own."
        )
    if outputs.shape[1] < 2:
        raise ConfigError(
            f"the network gives {describe(outputs)}: the cross-entropy of one class is always 0. Give the network an "
            "output for every class, or a loss of your own, e.g. one with binary_cross_entropy_with_logits."
        )
    labels = [outputs.shape[0], *outputs.shape[2:]]
    if not isinstance(targets, torch.Tensor) or not (
        (targets.dtype == torch.int64 and list(targets.shape) == labels)
        or (targets.is_floating_point() and targets.shape == outputs.shape)
    ):
        raise DataError(
            f"the targets of {outputs.shape[0]} samples are {describe(targets)}, for outputs {describe(outputs)}: "
            f"cross-entropy takes class numbers, int64 {labels}, or class probabilities, float {list(outputs.shape)}. "
            "Return int(label) from __getitem__, or give a loss of your own."
        )


def check_class_count(names: tuple[str, ...], outputs: torch.Tensor) -> None:
    """Raise ConfigError where the classes that the dataset names are not those that the network scores."""
    if names and outputs.shape[1] != len(names):
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise ConfigError(
            f"the network scores {outputs.shape[1]} classes, and the dataset names {len(names)} ({shown}): one output "
            f"is needed for each. Give the network's last layer {len(names)} outputs, or correct the dataset's "
            "attribute `classes`."
        )


def check_rows(outputs: Any, count: int) -> None:
    """Raise ConfigError unless every tensor has `count` rows."""
    found = tensors_of(outputs)
    if not found:
        raise ConfigError(
            f"the network gives {describe(outputs)}, in which no tensor is found. Return a tensor [n, ...], or a dict "
            "or tuple of such (of an object with fields e.g. vars(outputs)); no list of results."
        )
    if any(one.ndim == 0 or len(one) != count for one in found):
        raise ConfigError(
            f"the network gives {describe(outputs)} for {count} samples: every tensor in it must have the samples as "
            "its first dimension. Return a tensor [n, ...], or a dict or tuple of such; no list of results."
        )
