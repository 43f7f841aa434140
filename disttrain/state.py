"""The state of a training, taken apart into tensors and plain values, and put back.

There is no generator state and no position of a loader in it: randomness and order are functions of the step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from disttrain.checkpoint import Snapshot
from disttrain.errors import ConfigError
from disttrain.loop import Parts, Position

_MODEL, _OPTIMIZER, _AVERAGE = "model/", "optimizer/", "average/"


def capture(parts: Parts, model: nn.Module, position: Position) -> Snapshot | None:
    """The state as copies in host memory, on rank zero; None on the others, which may have to send their share."""
    optimizer: Any = parts.optimizer
    if hasattr(optimizer, "consolidate_state_dict"):  # ZeroRedundancyOptimizer: every rank holds a part
        optimizer.consolidate_state_dict(to=0)
    if parts.comm.rank != 0:
        return None
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{_OPTIMIZER}{index}/{name}"] = value
    if parts.average is not None:
        tensors |= {f"{_AVERAGE}{index}": tensor for index, tensor in enumerate(parts.average.averages)}
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    scaler = parts.precision.scaler
    return Snapshot(copies, {"step": position.step, "scaler": scaler.state_dict() if scaler else None})


def restore(parts: Parts, model: nn.Module, position: Position, snapshot: Snapshot) -> None:
    """Go on from a snapshot, on every rank alike. Raises ConfigError where it is of another network or optimizer."""
    tensors = snapshot.tensors
    try:
        model.load_state_dict(_below(tensors, _MODEL))
        parameters = [parameter for group in parts.optimizer.param_groups for parameter in group["params"]]
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _below(tensors, _OPTIMIZER).items():
            number, key = name.split("/")
            states.setdefault(int(number), {})[key] = _laid_out_like(parameters[int(number)], tensor)
        parts.optimizer.load_state_dict({"state": states, "param_groups": _groups(parts.optimizer)})
        if parts.average is not None:
            for index, average in enumerate(parts.average.averages):
                average.copy_(tensors[f"{_AVERAGE}{index}"])
        if parts.precision.scaler:
            parts.precision.scaler.load_state_dict(snapshot.values["scaler"])
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        raise ConfigError(f"the checkpoint does not fit this network and optimizer: {error}.") from None
    position.step = snapshot.values["step"]
    position.epoch, position.step_in_epoch = divmod(position.step, parts.pipeline.plan.steps_per_epoch)


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _laid_out_like(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in the parameter's memory order: fused optimizers walk both in step, and files know one order only."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def _groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The optimizer's settings, its parameters by number: settings come from the config, not from the disk."""
    first = 0
    groups = []
    for group in optimizer.param_groups:
        count = len(group["params"])
        groups.append({**group, "params": list(range(first, first + count))})
        first += count
    return groups
