"""The state of a training, taken apart into tensors and plain values, and put back.

There is no generator state and no position of a loader in it: randomness and order are functions of the step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from disttrain.checkpoint import Snapshot
from disttrain.checkpoint.sharding import assign_shards
from disttrain.checkpoint.values import CheckpointValues
from disttrain.comm.base import Comm
from disttrain.errors import ConfigError
from disttrain.log import log
from disttrain.loop import Parts, Position

Tensors = dict[str, torch.Tensor]

_MODEL, _OPTIMIZER, _AVERAGE, _RANK = "model/", "optimizer/", "average/", "rank_"


def rank_shard(parts: Parts, model: nn.Module, rank: int, world_size: int) -> Tensors:
    """What this rank writes of the state, not copied: all ranks' shards together are the whole.

    What all ranks have alike is spread over them. Buffers are rank zero's: those of the others are never used.
    Raises ConfigError where the network has state that is no tensor.
    """
    buffers, alike = _model_state(model)
    optimizer_state = _optimizer_state(parts.optimizer)
    own = _below_prefix(_rank_prefix(rank, world_size), parts.comm.rank_state())
    if _local(parts.optimizer) is parts.optimizer:
        alike |= optimizer_state
    else:
        own |= optimizer_state
    if parts.ema is not None:
        alike |= {f"{_AVERAGE}{index}": tensor for index, tensor in enumerate(parts.ema.averages)}
    assignment = assign_shards({name: tensor.nbytes for name, tensor in alike.items()}, world_size, _bytes(buffers))
    return {name: alike[name] for name, to in assignment.items() if to == rank} | (buffers if rank == 0 else {}) | own


def plain_values(parts: Parts, position: Position) -> CheckpointValues:
    """The plain values of the parts; the caller adds its own."""
    scaler = parts.precision.scaler
    return CheckpointValues(position.step, scaler.state_dict() if scaler else None)


def restore(parts: Parts, model: nn.Module, position: Position, snapshot: Snapshot) -> None:
    """Go on from a snapshot, on every rank alike. Raises ConfigError where it is of another network or optimizer."""
    tensors = snapshot.tensors
    try:
        model.load_state_dict(_below(tensors, _MODEL))
        _restore_optimizer(parts.optimizer, _below(tensors, _OPTIMIZER))
        if parts.ema is not None:
            for index, ema in enumerate(parts.ema.averages):
                ema.copy_(tensors[f"{_AVERAGE}{index}"])
        if parts.precision.scaler:
            parts.precision.scaler.load_state_dict(snapshot.values.scaler or {})
        _restore_rank_state(parts.comm, tensors)
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        raise ConfigError(f"the checkpoint does not fit this network and optimizer: {error}.") from None
    position.move_to(snapshot.values.step, parts.pipeline.plan)


def _model_state(model: nn.Module) -> tuple[Tensors, Tensors]:
    """(buffers, parameters) by their names in a checkpoint."""
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    parameters: Tensors = {}
    buffers: Tensors = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                f"the network's state {name!r} is {type(value).__name__}, and a checkpoint holds tensors only. Make it "
                "a buffer, or leave it out of state_dict()."
            )
        (parameters if name in trained else buffers)[_MODEL + name] = value
    return buffers, parameters


def _local(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer that holds this rank's state: one within ZeroRedundancyOptimizer, which has but a part of it."""
    whole: Any = optimizer
    return whole.optim if hasattr(whole, "consolidate_state_dict") else optimizer


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _optimizer_state(optimizer: torch.optim.Optimizer) -> Tensors:
    """The state that this rank has, by the parameters' numbers, which do not depend on the world size."""
    state = _local(optimizer).state
    return {
        f"{_OPTIMIZER}{number}/{key}": value
        for number, parameter in enumerate(_parameters(optimizer))
        for key, value in state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    parameters = _parameters(optimizer)
    states: dict[nn.Parameter, Tensors] = {}
    for name, tensor in tensors.items():
        number, key = name.split("/")
        parameter = parameters[int(number)]
        states.setdefault(parameter, {})[key] = tensor
    local = _local(optimizer)
    mine = {
        index: {key: _laid_out_like(parameter, tensor) for key, tensor in states[parameter].items()}
        for index, parameter in enumerate(_parameters(local))
        if parameter in states
    }
    local.load_state_dict({"state": mine, "param_groups": _groups(local)})


def _restore_rank_state(comm: Comm, tensors: Tensors) -> None:
    mine = _below(tensors, _rank_prefix(comm.rank, comm.world_size))
    if mine:
        comm.load_rank_state({name: tensor.clone() for name, tensor in mine.items()})
    elif any(name.startswith(_RANK) for name in tensors):
        log.info(
            "the error feedback of gradient compression in the checkpoint is of another number of ranks than "
            "world_size=%d: it begins anew",
            comm.world_size,
        )


def _rank_prefix(rank: int, world_size: int) -> str:
    return f"{_RANK}{rank}_of_{world_size}/"


def _below_prefix(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _bytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _laid_out_like(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the parameter's memory order: fused optimizers walk both in step, and files know one order only. A copy
    in any case: the tensor lies in the file, which may be removed while it is in use."""
    if tensor.shape != parameter.shape:
        return tensor.clone()
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
