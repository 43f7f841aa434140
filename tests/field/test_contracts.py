"""What users bring as samples, networks, losses and settings: it trains, or one message says why not, before any step.

A case that is refused has made no run directory: nothing was paid for.
"""

from __future__ import annotations

import datetime
import decimal
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Subset, TensorDataset

from disttrain.config import build_config
from disttrain.errors import ConfigError, DataError

from .parts import Points, fit, net, refused

Item = Callable[[torch.Tensor, int], Any]
Pair = namedtuple("Pair", "image label")


# ------------------------------------------------------------------------------------------------ samples

TAKEN: dict[str, Item] = {
    "float64 inputs": lambda x, y: (x.double(), y),
    "float16 inputs": lambda x, y: (x.half(), y),
    "numpy float64 inputs": lambda x, y: (x.numpy().astype("float64"), y),
    "big-endian numpy": lambda x, y: (x.numpy().astype(">f4"), y),
    "reversed numpy": lambda x, y: (x.numpy()[::-1][::-1][:8], y),
    "read backwards": lambda x, y: (x.flip(0).numpy()[::-1], y),
    "list of floats": lambda x, y: (x.tolist(), y),
    "input with a graph": lambda x, y: (x.requires_grad_(), y),
    "numpy int32 label": lambda x, y: (x, np.int32(y)),
    "numpy uint8 label": lambda x, y: (x, np.uint8(y)),
    "tensor label of int16": lambda x, y: (x, torch.tensor(y, dtype=torch.int16)),
    "array label without dimension": lambda x, y: (x, np.asarray(y)),
    "label as a word": lambda x, y: (x, ("left", "right")[y]),
    "label as numpy's word": lambda x, y: (x, np.str_(("left", "right")[y])),
    "a list of two": lambda x, y: [x, y],
    "named": lambda x, y: Pair(x, y),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_torch_would_take_in_another_form_trains_to_the_same_weights(name: str, tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", dataset=Points(item=lambda x, y: (x.half(), y)) if "float16" in name else Points())
    other = fit(tmp_path / "other", dataset=Points(item=TAKEN[name]))
    if name != "float16 inputs":
        assert other["weights_sha256"] == plain["weights_sha256"]
    assert other["test"] is None


REFUSED_SAMPLES: dict[str, tuple[Item, str]] = {
    "float label": (lambda x, y: (x, float(y)), r"targets of 4 samples are float\d+ \[4\].*class numbers, int64 \[4\]"),
    "numpy float32 label": (lambda x, y: (x, np.float32(y)), r"are float32 \[4\]"),
    "bool label": (lambda x, y: (x, bool(y)), r"are bool \[4\].*int\(label\)"),
    "label of shape [1]": (lambda x, y: (x, torch.tensor([y])), r"are int64 \[4, 1\]"),
    "one-hot of whole numbers": (lambda x, y: (x, [1 - y, y]), r"are int64 \[4, 2\]"),
    "unknown word": (lambda x, y: (x, "up"), "the target of sample 0 is 'up', which is none of the dataset's classes"),
    "no label": (lambda x, y: (x, None), "the target of sample 0 is None.*Every sample needs"),
    "input alone": (lambda x, y: x, r"sample 0 of the dataset is a tensor of shape \[8\]: expected \(input, target\)"),
    "two rows": (lambda x, y: torch.stack([x, x]), r"tensor of shape \[2, 8\]: expected \(input, target\)"),
    "three parts": (lambda x, y: (x, y, 1), r"a tuple of 3: expected \(input, target\)"),
    "a dict of two": (lambda x, y: {"x": x, "y": y}, r"a dict of 2: expected \(input, target\)"),
    "text": (lambda x, y: ("a chip", y), "the input of sample 0 is of type str.*numbers in __getitem__"),
    "a picture": (
        lambda x, y: (__import__("PIL.Image").Image.new("RGB", (4, 4)), y),
        r"the input of sample 0 is of type PIL.*pil_to_tensor",
    ),
    "an object array": (lambda x, y: (np.array([None, 1]), y), "the input of sample 0 is an array of object"),
    "sparse": (lambda x, y: (x.to_sparse(), y), "sparse tensor.*to_dense"),
    "label too high": (lambda x, y: (x, 7), "the target of sample 0 holds 7, out of range.*classes 0 to 1"),
    "ignored label": (lambda x, y: (x, -100), "the target of sample 0 holds -100, out of range.*reduction='none'"),
    "raises": (lambda x, y: (x[0] / 0 if y > 5 else 1 // 0, y), "sample 0 of the dataset raised ZeroDivisionError"),
    "lengths differ": (lambda x, y: (x[: 4 + int(x[1] > 0)], y), "do not fit into one batch.*resize, crop or pad"),
}


@pytest.mark.parametrize("name", REFUSED_SAMPLES)
def test_a_sample_that_does_not_fit_is_refused_by_its_number(name: str, tmp_path: Path) -> None:
    item, message = REFUSED_SAMPLES[name]
    refused(tmp_path, DataError, message, dataset=Points(item=item))


DATASETS: dict[str, tuple[Callable[[], dict[str, Any]], type[Exception], str]] = {
    "classes as a number": (lambda: {"dataset": Points(classes=2)}, DataError, "classes=2: expected the names"),
    "classes as a word": (lambda: {"dataset": Points(classes="ab")}, DataError, "classes='ab': expected the names"),
    "classes as a mapping": (
        lambda: {"dataset": Points(classes={"right": 1, "left": 0})}, DataError, "a dict does not list.*class_to_idx"
    ),
    "classes as a set": (lambda: {"dataset": Points(classes={"left", "right"})}, DataError, "a set does not list"),
    "a class twice": (lambda: {"dataset": Points(classes=["a", "a"])}, DataError, "names the class 'a' twice"),
    "words without classes": (
        lambda: {"dataset": Points(classes=None, item=lambda x, y: (x, "left"))}, DataError, "names no classes",
    ),
    "other classes in the test data": (
        lambda: {"test_dataset": Points(classes=("right", "left"))}, DataError,
        "training data are left, right, those of the test data right, left",
    ),
    "empty": (lambda: {"dataset": Points(0)}, DataError, "is empty"),
    "empty test data": (lambda: {"test_dataset": Points(0)}, DataError, "test data is empty"),
    "a length that is not so": (
        lambda: {"dataset": Points(x=Lying())}, DataError, "sample 99 of the dataset raised IndexError",
    ),
    "no dataset": (lambda: {"dataset": [1, 2][0]}, DataError, "expected a map-style dataset"),
    "a bad test sample": (
        lambda: {"test_dataset": Points(9, item=lambda x, y: (x[:7], y))}, ConfigError,
        "the first sample of the test split cannot be evaluated",
    ),
    "a bad label in a tensor": (
        lambda: {"dataset": TensorDataset(torch.randn(40, 8), torch.arange(40) // 13)}, DataError, "hold 0 to 3",
    ),
}  # fmt: skip


class Lying:
    """Says that it is longer than it is."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: Any) -> torch.Tensor:
        if index == 99:
            raise IndexError(index)
        return torch.zeros(8)[index[1]] if isinstance(index, tuple) else torch.zeros(8)


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_that_is_not_what_it_says_is_refused(name: str, tmp_path: Path) -> None:
    options, error, message = DATASETS[name]
    refused(tmp_path, error, message, **options())


def test_a_tensor_dataset_with_items_of_its_own_is_asked_for_them(tmp_path: Path) -> None:
    class Negated(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            inputs, target = super().__getitem__(index)
            return -inputs, target

    inputs, targets = torch.randn(48, 8, generator=torch.Generator().manual_seed(3)), torch.arange(48) % 2
    made = fit(tmp_path / "own", dataset=Negated(inputs, targets))
    assert made["weights_sha256"] == fit(tmp_path / "made", dataset=TensorDataset(-inputs, targets))["weights_sha256"]


def test_a_subset_and_a_dataset_without_names_train(tmp_path: Path) -> None:
    assert fit(tmp_path, dataset=Subset(Points(), range(40)), test_dataset=Points(9, 2))["test"]["count"] == 9


# ------------------------------------------------------------------------------------------------ settings

KWARGS: dict[str, tuple[Any, str]] = {
    "date": (datetime.date(2024, 1, 1), "is a date.*quote it to give text: data.kwargs.since='\"2024-01-01\"'"),
    "time": (datetime.datetime(2024, 1, 1), "is a datetime"),
    "infinity": (float("inf"), "JSON has no word for it"),
    "nan within": ({"a": [1, float("nan")]}, r"data.kwargs.since.a\[1\]=nan"),
    "bytes": (b"x", "is a bytes"),
    "a set": ({1, 2}, "is a set"),
    "a number as key": ({1: "a"}, "has the key 1, a int: keys must be text"),
    "a tensor": (torch.ones(2), "is a Tensor"),
    "a decimal": (decimal.Decimal(1), "is a Decimal"),
    "half a character": ("\ud800", "is not text that UTF-8 can write"),
}


@pytest.mark.parametrize("name", KWARGS)
def test_a_value_that_no_file_can_hold_is_no_setting(name: str) -> None:
    value, message = KWARGS[name]
    for section in ("data", "model"):
        with pytest.raises(ConfigError, match=f"(?s){message.replace('data', section)}"):
            build_config({section: {"kwargs": {"since": value}}})


@pytest.mark.parametrize("text", [".inf", "!!binary aGk=", "!!set {a, b}", "{1: a}"])
def test_what_yaml_makes_of_a_text_is_looked_at_too(text: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.kwargs\.since"):
        build_config(None, [f"data.kwargs.since={text}"])


def test_numpy_numbers_paths_and_tuples_are_written_as_plain_values() -> None:
    kwargs = {"a": np.float64(0.5), "b": np.int32(3), "c": Path("x/y"), "d": (1, np.bool_(True)), "e": np.str_("s")}
    assert build_config({"data": {"kwargs": kwargs}}).data.kwargs == {
        "a": 0.5, "b": 3, "c": "x/y", "d": [1, True], "e": "s",
    }  # fmt: skip


def test_a_setting_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ConfigError, match="holds itself"):
        build_config({"data": {"kwargs": {"a": loop}}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": nn.CrossEntropyLoss}, r"loss is the class CrossEntropyLoss.*loss=CrossEntropyLoss\(\)"),
        ({"loss": "mse"}, "loss is a str"),
        ({"loss": functional.cross_entropy, "train": {"label_smoothing": 0.1}}, "no effect on a loss of your own"),
        ({"comm": 3}, "comm=3 must be a mapping"),
    ],
)
def test_an_argument_of_another_kind_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    refused(tmp_path, ConfigError, message, **options)


class OneBuffer(Points):
    """Gives the same tensor or array for every sample, filled anew."""

    def __init__(self, buffer: Any, **options: Any) -> None:
        super().__init__(**options)
        self.buffer = buffer

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        self.buffer[:] = x
        return self.buffer, y


@pytest.mark.parametrize("buffer", [torch.zeros(8), np.zeros(8, "float32")], ids=["tensor", "array"])
def test_a_buffer_that_a_dataset_fills_anew_is_another_sample_each_time(buffer: Any, tmp_path: Path) -> None:
    own = fit(tmp_path / "own", dataset=Points())
    assert fit(tmp_path / "one", dataset=OneBuffer(buffer))["weights_sha256"] == own["weights_sha256"]


@pytest.mark.parametrize("item", [lambda x, y: (x, float(y)), lambda x, y: (x, np.float64(y))], ids=["float", "numpy"])
def test_plain_numbers_are_targets_of_a_regression(item: Any, tmp_path: Path) -> None:
    model, loss = nn.Sequential(net(1), nn.Flatten(0)), nn.HuberLoss()
    own = fit(tmp_path / "own", model, Points(item=lambda x, y: (x, torch.tensor(float(y)))), loss=loss)
    model = nn.Sequential(net(1), nn.Flatten(0))
    assert fit(tmp_path / "plain", model, Points(item=item), loss=loss)["weights_sha256"] == own["weights_sha256"]
