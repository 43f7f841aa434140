"""Training as it is written in a textbook: one process, whole global batches, nothing of disttrain but the samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from disttrain.data.base import ImageArrays

from .pool import Run, Weights

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Trained:
    weights: Weights
    after_step: list[Weights] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)


def train_alone(
    run: Run,
    arrays: ImageArrays,
    model: nn.Module,
    optimizer: Callable[[list[nn.Parameter], list[nn.Parameter]], torch.optim.Optimizer],
    loss: Loss = functional.cross_entropy,
    clip_norm: float | None = None,
    dtype: torch.dtype | None = None,
) -> Trained:
    """Begin with the weights that `run` began with and take, whole and in one piece, the batches that its ranks took.

    `optimizer` receives the weights of two or more dimensions and the others.
    """
    model.load_state_dict(run.initial())
    several, single = ([p for p in model.parameters() if (p.ndim >= 2) is wanted] for wanted in (True, False))
    stepper = optimizer(several, single)
    assert arrays.is_test is not None
    train_ids = np.flatnonzero(~arrays.is_test)
    pixels = arrays.images[train_ids].astype(np.float64)
    mean, std = (f(pixels, axis=(0, 2, 3), keepdims=True)[0] for f in (np.mean, np.std))
    trained = Trained({})
    for _, ids in run.global_batches():
        inputs = torch.from_numpy((arrays.images[ids] - mean) / std).float()
        stepper.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            value = loss(model(inputs), torch.from_numpy(arrays.labels[ids]))
        value.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm or float("inf"))
        trained.gradient_norms.append(norm.item())
        stepper.step()
        trained.after_step.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    trained.weights = trained.after_step[-1]
    return trained
