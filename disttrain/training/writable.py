"""Whether a network can be trained and written down: asked before it starts."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from disttrain.checkpoint.host_buffer import DTYPES
from disttrain.errors import ConfigError
from disttrain.log import log
from disttrain.models.model_dir import ModelSpec
from disttrain.tensor_tree import overlaps


def check_network(model: nn.Module, name: str) -> None:
    """Raise ConfigError for weights that cannot be trained, or state that no file can hold."""
    if isinstance(model, DistributedDataParallel | DataParallel):
        raise ConfigError(f"{name} is wrapped in {type(model).__name__}: give the network itself (.module).")
    if isinstance(model, torch.jit.ScriptModule):
        raise ConfigError(f"{name} is a {type(model).__name__}, compiled by torch.jit: give the network before that.")
    _warn_of_evaluation_mode(model, name)
    trainable = [key for key, one in model.named_parameters() if one.requires_grad]
    if not trainable:
        frozen = sum(1 for _ in model.parameters())
        raise ConfigError(
            f"{name} has no trainable weights ({frozen} parameters, all with requires_grad=False): there is nothing to "
            "train. Leave at least the last layer with requires_grad_(True)."
        )
    state = model.state_dict()
    if lost := [key for key in trainable if key not in state]:
        raise ConfigError(
            f"{name} trains {lost[0]!r}, which its state_dict() leaves out: it would be in no checkpoint and in no "
            "model. Let state_dict() name every trained weight."
        )
    for key, value in state.items():
        _check_tensor(name, key, value)
    for key, one in model.named_parameters():
        if one.requires_grad and not bool(one.detach().isfinite().all()):
            raise ConfigError(
                f"{name}: the weights {key!r} hold NaN or infinity before the first step. Initialise them."
            )


def _warn_of_evaluation_mode(model: nn.Module, name: str) -> None:
    """What stays in evaluation mode in a loop without `model.train()` does not here."""
    parts = [
        key
        for key, one in model.named_modules()
        if not one.training and isinstance(one, torch.nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)
    ]
    if model.training and parts:
        log.warning(
            "%s: %d layers are in evaluation mode, e.g. %s (%s), and are trained in training mode, as model.train() "
            "sets it; to keep them as they are let the network override train()",
            name, len(parts), parts[0], type(model.get_submodule(parts[0])).__name__,
        )  # fmt: skip


def check_loading(model: nn.Module, name: str) -> None:
    """Raise ConfigError where a checkpoint could not be loaded into the network. It loads its own state."""
    try:
        model.load_state_dict(model.state_dict())
    except Exception as error:
        raise ConfigError(
            f"{name} does not load its own state_dict(), so no checkpoint of it could be: {error}"
        ) from error


def _check_tensor(name: str, key: str, value: object) -> None:
    if not isinstance(value, torch.Tensor):
        raise ConfigError(
            f"{name}: its state {key!r} is {type(value).__name__}, and a checkpoint holds tensors only. Make it a "
            "buffer, or leave it out of state_dict()."
        )
    if value.dtype not in DTYPES or value.layout != torch.strided or value.is_quantized or value.is_meta:
        kind = "on the meta device" if value.is_meta else f"{value.dtype}, {value.layout}"
        raise ConfigError(
            f"{name}: its state {key!r} is {kind}, which no checkpoint can hold. Use dense tensors of floats or whole "
            "numbers, or leave it out of state_dict()."
        )
    if overlaps(value):
        raise ConfigError(
            f"{name}: its state {key!r} has elements that share their memory, as expand() makes them: nothing can be "
            "loaded into it. Use .expand(...).clone(), or leave it out of state_dict()."
        )


def check_description(spec: ModelSpec) -> None:
    """Raise ConfigError where `model.json` could not be written."""
    try:
        json.dumps(asdict(spec), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the description of the model cannot be written as JSON: {error}. Use text, finite numbers, true/false, "
            "lists and mappings in model.kwargs and data.kwargs."
        ) from None
