"""Test-time augmentation: the outputs of a network averaged over flips and turns of its input."""

from __future__ import annotations

import math

import torch
from torch import nn

from disttrain.data.transform import Symmetry, apply_symmetry


def averaged_outputs(model: nn.Module, inputs: torch.Tensor, symmetries: tuple[Symmetry, ...]) -> torch.Tensor:
    """The network's outputs; with several symmetries the log of the class probabilities averaged over them [n, K]."""
    if len(symmetries) == 1:
        return model(apply_symmetry(inputs, symmetries[0]))
    log_probabilities = [model(apply_symmetry(inputs, one)).float().log_softmax(1) for one in symmetries]
    return torch.stack(log_probabilities).logsumexp(0) - math.log(len(symmetries))
