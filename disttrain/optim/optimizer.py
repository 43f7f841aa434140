"""The optimizer, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from disttrain.config.sections import OptimConfig

Schedule = Callable[[int], float]
"""Step (from 0) -> learning rate."""

_ONE_CYCLE_START = 1 / 25  # of the peak; the other constants of torch's OneCycleLR are config fields here
_ONE_CYCLE_WARMUP = 0.3


def peak_lr(optim: OptimConfig, global_batch_size: int) -> float:
    """The configured learning rate, scaled from the reference batch size to this one."""
    ratio = global_batch_size / (optim.reference_batch_size or global_batch_size)
    return optim.lr * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[optim.lr_scaling]


def build_schedule(optim: OptimConfig, global_batch_size: int, total_steps: int) -> Schedule:
    """The learning rate of every step. It keeps no state: resuming at step k needs nothing but k."""
    peak = peak_lr(optim, global_batch_size)
    one_cycle = optim.schedule == "one_cycle"
    fraction = optim.warmup_fraction or (_ONE_CYCLE_WARMUP if one_cycle else 0.0)
    warmup = round(fraction * total_steps)
    anneal = max(1, total_steps - 1 - warmup)

    def lr(step: int) -> float:
        if step < warmup:
            if one_cycle:
                return peak * (_ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * _half_cosine(step / warmup))
            return peak * (step + 1) / warmup
        if optim.schedule == "constant":
            return peak
        done = min(1.0, (step - warmup) / anneal)
        return peak * (1 - (1 - optim.final_lr_fraction) * _half_cosine(done))

    return lr


def _half_cosine(done: float) -> float:
    """From 0 to 1 along half a cosine."""
    return (1 - math.cos(math.pi * done)) / 2


def build_optimizer(optim: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters: weight decay on weights, none on biases and norms."""
    groups = _decay_groups(model, optim.weight_decay)
    kind: type[torch.optim.Optimizer]
    if optim.name == "adamw":
        kind = torch.optim.AdamW
        settings: dict[str, Any] = {"betas": (optim.beta1, optim.beta2)}
    else:
        kind = torch.optim.SGD
        settings = {"momentum": optim.momentum, "nesterov": optim.nesterov}
    settings |= {"lr": optim.lr, "fused": True}
    if optim.zero_redundancy:
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(groups, optimizer_class=kind, **settings)
    optimizer = kind(groups, **settings)
    if optim.name == "sgd" and optim.momentum:
        # Fused SGD whose first step is skipped (fp16 overflow) goes on with momentum that torch 2.15 never initialised.
        for parameter in (p for group in groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` for every parameter from now on."""
    for group in optimizer.param_groups:
        group["lr"] = lr
