"""A network by name: our own, torchvision's, or the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from disttrain.config.sections import ModelConfig
from disttrain.config.user_code import import_object
from disttrain.data.statistics import check_channels_first
from disttrain.errors import ConfigError, unknown_name
from disttrain.models.mnist import MnistCnn, MnistMlp
from disttrain.models.planesnet import PlanesNetCnn

MODELS: dict[str, Callable[..., nn.Module]] = {
    "planesnet_cnn": PlanesNetCnn,
    "mnist_mlp": MnistMlp,
    "mnist_cnn": MnistCnn,
}
_CONVOLUTIONAL = ("planesnet_cnn", "mnist_cnn")
_TORCHVISION = "torchvision:"


def build_model(config: ModelConfig, input_shape: tuple[int, ...], class_count: int) -> nn.Module:
    """The network for inputs [n, *input_shape] with `class_count` outputs, its weights drawn from the current seed.

    A user's function receives those of `input_shape`, `class_count` and `dropout` that it has parameters for.
    Raises ConfigError: unknown name, wrong arguments, or a network that does not take such inputs; DataError: images
    with the channels last.
    """
    name = config.name
    offered: dict[str, Any] = {"input_shape": input_shape, "class_count": class_count, "dropout": config.dropout}
    if name in MODELS:
        constructor = MODELS[name]
        if name in _CONVOLUTIONAL and len(input_shape) == 3:  # it would take rows for channels without a word
            check_channels_first(input_shape)
    elif name.startswith(_TORCHVISION):
        constructor, offered = _torchvision_model(name), {"num_classes": class_count}
        if input_shape[0] == 1:
            raise ConfigError(f"model.name={name}: torchvision's classifiers take 3 channels, the data has 1.")
    elif ":" in name:
        constructor = import_object(name, "model.name")
    else:
        raise ConfigError(
            f"model.name: {unknown_name('model', name, MODELS)} Others: torchvision:NAME, package.module:function."
        )
    arguments = {**_accepted(constructor, offered), **config.kwargs}
    try:
        model = constructor(**arguments)
    except Exception as error:
        raise ConfigError(f"model.name={name} with {arguments} raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name={name} gave a {type(model).__name__}, not a torch.nn.Module.")
    _check_outputs(name, model, input_shape, class_count)
    return model


def _torchvision_model(name: str) -> Callable[..., nn.Module]:
    from torchvision.models import get_model_builder, list_models

    wanted = name.removeprefix(_TORCHVISION)
    valid = list_models(module=__import__("torchvision").models)
    if wanted not in valid:
        raise ConfigError(f"model.name: {unknown_name('torchvision classifier', wanted, valid)}")
    return get_model_builder(wanted)


def _accepted(function: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    if "num_classes" in offered:  # torchvision's builders take it in their **kwargs
        return offered
    return {key: value for key, value in offered.items() if key in parameters}


@torch.no_grad()
def _check_outputs(name: str, model: nn.Module, input_shape: tuple[int, ...], class_count: int) -> None:
    was_training = model.training
    model.eval()
    try:
        outputs = model(torch.zeros(2, *input_shape))
    except Exception as error:
        raise ConfigError(
            f"model.name={name} does not take inputs of shape {list(input_shape)}: {type(error).__name__}: {error}"
        ) from error
    model.train(was_training)
    if tuple(getattr(outputs, "shape", ())) != (2, class_count):
        shape = list(getattr(outputs, "shape", ())) or type(outputs).__name__
        raise ConfigError(
            f"model.name={name} gives outputs of shape {shape} for 2 samples; the data has {class_count} classes, so "
            f"[2, {class_count}] is needed."
        )
