"""How `fit` is called, and what the networks give that people have: taken as meant, or refused in one message."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, Subset, random_split

from disttrain.errors import ConfigError, DataError

from .parts import Points, fit, net, refused


@pytest.mark.parametrize(
    ("context", "says"),
    [
        (torch.no_grad, r"within torch\.no_grad\(\)"),
        (torch.inference_mode, r"within torch\.inference_mode\(\)"),
        (lambda: torch.autocast("cpu", torch.bfloat16), r"within torch\.autocast.*train=\{'precision': 'bf16'\}"),
    ],
)
def test_a_context_in_which_training_would_be_another_is_told(
    tmp_path: Path, context: Callable[[], AbstractContextManager[Any]], says: str
) -> None:
    with context():
        refused(tmp_path, ConfigError, says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"resume": True}, "resume=True is a bool: expected 'never', 'auto' or a path"),
        ({"resume": None}, "resume=None is a NoneType"),
        ({"run_dir": None}, "run_dir=None is a NoneType: expected a path"),
        ({"run_dir": "s3://bucket/run"}, "s3://bucket/run is a URL"),
        ({"run_dir": ""}, "a path is empty"),
    ],
)
def test_arguments_of_another_kind_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], says: str
) -> None:
    import disttrain

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        disttrain.fit(net(), Points(), **{"run_dir": tmp_path / "run", **options})
    assert says in str(error.value)
    assert list(tmp_path.iterdir()) == []


class Fields(collections.OrderedDict[str, Any]):
    """Items that are attributes too, as Hugging Face's outputs have them."""

    def __getattr__(self, name: str) -> Any:
        with contextlib.suppress(KeyError):
            return self[name]
        raise AttributeError(name)


class PlainFields(dict[str, Any]):
    """A dict of a class of its own."""


@dataclasses.dataclass
class Record:
    logits: torch.Tensor


class Wrapped(nn.Module):
    """Class scores within something."""

    def __init__(self, wrap: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.net, self.wrap = net(), wrap

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.wrap(self.net(inputs))


def loss_of_logits(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs["logits"], targets)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda scores: PlainFields(logits=scores),
        lambda scores: Fields(logits=scores, hidden=(scores, Fields(last=scores)), none=None),
        lambda scores: collections.OrderedDict(logits=scores),
    ],
)
def test_outputs_in_any_kind_of_dict_train_as_in_a_plain_one(tmp_path: Path, wrap: Callable[..., Any]) -> None:
    options: dict[str, Any] = {"loss": loss_of_logits, "test_dataset": Points(20, 2)}
    found = fit(tmp_path / "a", Wrapped(wrap), **options)
    plain = fit(tmp_path / "b", Wrapped(lambda scores: {"logits": scores}), **options)
    assert found["weights_sha256"] == plain["weights_sha256"]
    assert found["test"] == plain["test"]


def test_outputs_without_a_tensor_that_can_be_found_are_told_as_that(tmp_path: Path) -> None:
    refused(tmp_path, ConfigError, r"gives Record, in which no tensor is found.*vars\(outputs\)",
            model=Wrapped(Record), loss=loss_of_logits)  # fmt: skip
    refused(tmp_path, ConfigError, r"gives Fields \{'logits': float32 \[2\]\} for 4 samples",
            model=Wrapped(lambda scores: Fields(logits=scores.sum(0))), loss=loss_of_logits)  # fmt: skip


@pytest.mark.parametrize("outputs", [1, 3, 40])
@pytest.mark.parametrize("loss", [None, functional.cross_entropy])
def test_as_many_outputs_as_classes_are_needed(tmp_path: Path, outputs: int, loss: Any) -> None:
    if outputs == 1:
        refused(tmp_path, ConfigError, "", model=net(1), loss=loss)
        return
    refused(
        tmp_path, ConfigError, rf"scores {outputs} classes, and the dataset names 2 \(left, right\): one output is",
        model=net(outputs), loss=loss,
    )  # fmt: skip


def test_fewer_outputs_than_classes_are_refused_also_where_no_label_needs_them(tmp_path: Path) -> None:
    three = Points(classes=("left", "right", "above"))
    refused(tmp_path, ConfigError, "scores 2 classes, and the dataset names 3", dataset=three)
    probabilities = Points(item=lambda x, y: (x, torch.eye(2)[y]), classes=three.classes)
    refused(tmp_path, ConfigError, "scores 2 classes, and the dataset names 3", dataset=probabilities)


def test_a_single_class_is_told_as_that(tmp_path: Path) -> None:
    one = Points(item=lambda x, y: (x, 0), classes=("left",))
    refused(tmp_path, DataError, "has a single class, 'left'", dataset=one, model=net(1))


def words() -> Points:
    return Points(item=lambda x, y: (x, ("left", "right")[y]))


@pytest.mark.parametrize(
    "dataset",
    [
        lambda: Subset(words(), range(40)),
        lambda: random_split(words(), [40, 24])[0],
        lambda: ConcatDataset([words(), Subset(words(), range(10))]),
    ],
)
def test_the_classes_of_what_a_subset_is_of_are_its_own(tmp_path: Path, dataset: Callable[[], Any]) -> None:
    result = fit(tmp_path, dataset=dataset(), test_dataset=Subset(words(), range(40, 64)))
    assert result["test"]["class_names"] == ["left", "right"]


def test_parts_with_other_classes_are_refused(tmp_path: Path) -> None:
    turned = Points(classes=("right", "left"))
    refused(tmp_path, DataError, "joins datasets with the classes left, right and right, left",
            dataset=ConcatDataset([Points(), turned]))  # fmt: skip
    refused(tmp_path, DataError, "those of the test data right, left",
            dataset=Points(), test_dataset=Subset(turned, range(9)))  # fmt: skip


class Spread(nn.Module):
    """A buffer whose elements are one number in memory."""

    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.net = net()
        self.register_buffer("mask", torch.ones(1, 1).expand(1, 2), persistent=persistent)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.net(inputs) * self.mask


def test_state_that_shares_its_memory_is_refused_where_a_checkpoint_would_hold_it(tmp_path: Path) -> None:
    refused(tmp_path, ConfigError, "state 'mask' has elements that share their memory", model=Spread(True))
    assert fit(tmp_path / "kept", Spread(False))["status"] == "finished"
