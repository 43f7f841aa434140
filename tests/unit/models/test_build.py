"""A network by name, checked on inputs of the data's shape before training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from disttrain.config.sections import ModelConfig
from disttrain.errors import ConfigError
from disttrain.models.build import MODELS, build_model

Write = Callable[[str], str]
SHAPES = {"planesnet_cnn": ((3, 20, 20), 2), "mnist_mlp": ((1, 28, 28), 10), "mnist_cnn": ((1, 28, 28), 10)}

USERS = """
    from torch import nn
    def small(input_shape, class_count, width=4):
        size = input_shape[0] * input_shape[1] * input_shape[2]
        return nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.Linear(width, class_count))
    def fixed():
        return nn.Sequential(nn.Flatten(), nn.Linear(27, 5))
    def with_dropout(dropout, class_count, **others):
        assert not others, others
        return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(27, class_count))
    def raising(class_count):
        raise ValueError("no weights here")
    def function(class_count):
        return lambda x: x
    class Pair(nn.Module):
        def __init__(self, class_count):
            super().__init__()
            self.inner = nn.Linear(27, class_count)
        def forward(self, x):
            return self.inner(x.flatten(1)), x
"""


def build(name: str, shape: tuple[int, ...] = (3, 3, 3), classes: int = 2, **fields: Any) -> nn.Module:
    return build_model(ModelConfig(name=name, **fields), shape, classes)


@pytest.mark.parametrize("name", MODELS)
def test_our_networks_give_scores_and_take_gradients(name: str) -> None:
    shape, classes = SHAPES[name]
    model = build(name, shape, classes)
    assert model.training
    outputs = model(torch.randn(3, *shape))
    assert outputs.shape == (3, classes)
    outputs.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_a_samples_scores_do_not_depend_on_the_batch_it_is_in(name: str) -> None:
    shape, classes = SHAPES[name]
    model = build(name, shape, classes)
    images = torch.randn(6, *shape)
    assert torch.allclose(model(images)[2:4], model(images[2:4]), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build(name, *SHAPES[name]).parameters())

    with torch.random.fork_rng():
        assert torch.equal(weights(1), weights(1))
        assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", MODELS)
def test_our_networks_take_dropout_and_their_own_arguments(name: str) -> None:
    model = build(name, *SHAPES[name], dropout=0.3)
    assert [one.p for one in model.modules() if isinstance(one, nn.Dropout)] == [0.3]
    narrow = {"mnist_mlp": {"hidden": 8}}.get(name, {"width": 4})
    smaller = build(name, *SHAPES[name], kwargs=narrow)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())


def test_a_users_function_gets_what_it_has_parameters_for(user_module: Write) -> None:
    name = user_module(USERS)
    assert build(f"{name}:small", kwargs={"width": 7}).get_submodule("1").out_features == 7
    assert build(f"{name}:with_dropout", dropout=0.25).get_submodule("1").p == 0.25
    assert build(f"{name}:fixed", classes=5)(torch.zeros(1, 3, 3, 3)).shape == (1, 5)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("raising", "raised ValueError: no weights here"),
        ("function", "gave a function, not a torch.nn.Module"),
        ("fixed", "gives outputs of shape [2, 5] for 2 samples; the data has 2 classes, so [2, 2] is needed"),
        ("Pair", "gives outputs of shape tuple for 2 samples"),
        ("smal", "Did you mean 'small'?"),
    ],
)
def test_a_users_function_that_cannot_be_used_is_told_why(user_module: Write, function: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(f"{user_module(USERS)}:{function}")
    assert expected in str(error.value)


def test_arguments_that_a_network_does_not_take_are_told() -> None:
    with pytest.raises(ConfigError, match=r"planesnet_cnn with .*'depth': 3.* raised TypeError: .*'depth'"):
        build("planesnet_cnn", (3, 20, 20), kwargs={"depth": 3})


def test_inputs_that_a_network_does_not_take_are_told(user_module: Write) -> None:
    with pytest.raises(ConfigError, match=r"does not take inputs of shape \[3, 4, 4\]: RuntimeError"):
        build(f"{user_module(USERS)}:fixed", (3, 4, 4), 5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("planesnet_cn", "unknown model 'planesnet_cn'. Did you mean 'planesnet_cnn'?"),
        ("resnet18", "Others: torchvision:NAME, package.module:function."),
        ("torchvision:resnet81", "Did you mean 'resnet18'?"),
        ("no_such_package:make", "there is no module 'no_such_package'"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(name)
    assert expected in str(error.value)


def test_torchvisions_classifiers_are_there_by_name_with_our_number_of_classes() -> None:
    model = build("torchvision:squeezenet1_1", (3, 32, 32), 7)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ConfigError, match="take 3 channels, the data has 1"):
        build("torchvision:squeezenet1_1", (1, 32, 32), 7)
