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

from .parts import Points, batchnorm_net, fit, net

Item = Callable[[torch.Tensor, int], Any]
Pair = namedtuple("Pair", "image label")


class Two(nn.Module):
    """Gives and takes more than one tensor."""

    def __init__(self, give: str = "tensor", take: str = "tensor") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.give, self.take = nn.Linear(8, 2), give, take

    def forward(self, x: Any) -> Any:
        scores = self.layer(x["x"] if self.take == "dict" else x[0] + x[1] if self.take == "tuple" else x)
        return {
            "dict": {"logits": scores, "aux": scores * 2},
            "tuple": (scores, scores * 2),
            "scalar": {"logits": scores, "loss": scores.sum()},
            "list of results": [{"label": int(one.argmax())} for one in scores],
        }.get(self.give, scores)


def of_logits(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs["logits"] if isinstance(outputs, dict) else outputs[0], targets)


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


def refused(folder: Path, error: type[Exception], message: str, **options: Any) -> None:
    with pytest.raises(error, match=f"(?s){message}") as caught:
        fit(folder, **options)
    assert caught.type is error
    assert not (folder / "run").exists()


DATASETS: dict[str, tuple[Callable[[], dict[str, Any]], type[Exception], str]] = {
    "classes as a number": (lambda: {"dataset": Points(classes=2)}, DataError, "classes=2: expected the names"),
    "classes as a word": (lambda: {"dataset": Points(classes="ab")}, DataError, "classes='ab': expected the names"),
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


# ------------------------------------------------------------------------------------------------ networks

NETWORKS: dict[str, Callable[[], dict[str, Any]]] = {
    "dict outputs": lambda: {"model": Two("dict"), "loss": of_logits, "test_dataset": Points(9, 2)},
    "tuple outputs": lambda: {"model": Two("tuple"), "loss": of_logits},
    "dict inputs": lambda: {
        "model": Two(take="dict"), "dataset": Points(item=lambda x, y: ({"x": x.double(), "id": 3}, y))
    },
    "tuple inputs": lambda: {"model": Two(take="tuple"), "dataset": Points(item=lambda x, y: ((x, x), y))},
    "dict targets": lambda: {
        "dataset": Points(item=lambda x, y: (x, {"side": y, "far": x.norm()})),
        "loss": lambda o, t: functional.cross_entropy(o, t["side"]) + (o[:, 0] - t["far"]).square().mean(),
    },
    "lazy": lambda: {"model": nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 2))},
    "float64 weights": lambda: {"model": net().double()},
    "bfloat16 weights": lambda: {"model": net().bfloat16()},
    "partly frozen": lambda: {"model": nn.Sequential(net().requires_grad_(False), nn.Linear(2, 2))},
    "weights without a part in the loss": lambda: {"model": nn.ModuleDict({"a": net()})["a"]},
    "a buffer that is replaced": lambda: {"model": Counting()},
    "what cannot be copied": lambda: {"model": Uncopied()},
    "batchnorm, no sample alone": lambda: {"model": batchnorm_net(), "dataset": Points(66)},
    "batchnorm, one alone after max_steps": lambda: {
        "model": batchnorm_net(), "dataset": Points(65), "train": {"max_steps": 3}
    },
    "soft labels": lambda: {"dataset": Points(item=lambda x, y: (x, [1.0 - y, float(y)]))},
    "numpy settings": lambda: {"optim": {"lr": np.float32(0.5)}, "batch": {"global_batch_size": np.int64(8)}},
}  # fmt: skip


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = net()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = self.seen + len(x)
        return self.layer(x)


class Uncopied(Counting):
    def __deepcopy__(self, memo: Any) -> None:
        raise TypeError("cannot be copied")


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_other_kinds_train(name: str, tmp_path: Path) -> None:
    result = fit(tmp_path, **NETWORKS[name]())
    assert result["status"] == "finished"
    assert (tmp_path / "run/model/model.safetensors").exists()


@pytest.mark.parametrize("model", [Counting, Uncopied])
def test_the_trial_leaves_no_trace_in_the_network(model: type[Counting], tmp_path: Path) -> None:
    made = model()
    fit(tmp_path, model=made, dataset=Points(40))
    assert made.seen == 40


def test_the_trial_leaves_the_generators_and_the_loss_alone(tmp_path: Path) -> None:
    with_test = fit(tmp_path / "a", model=nn.Sequential(net(), nn.Dropout(0.5)), test_dataset=Points(9, 2))
    alone = fit(tmp_path / "b", model=nn.Sequential(net(), nn.Dropout(0.5)))
    assert with_test["weights_sha256"] == alone["weights_sha256"]


class Forgetful(Counting):
    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        return {key: one for key, one in super().state_dict(*arguments, **options).items() if "bias" not in key}


class Extra(Counting):
    def get_extra_state(self) -> Any:
        return {"calls": 1}

    def set_extra_state(self, state: Any) -> None: ...


class Cut(Counting):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).detach()


def poisoned() -> nn.Module:
    made = net()
    with torch.no_grad():
        next(made.parameters())[0, 0] = float("nan")
    return made


class Squeezing(Counting):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).squeeze()


REFUSED_NETWORKS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "frozen": (lambda: {"model": net().requires_grad_(False)}, r"no trainable weights \(4 parameters.*requires_grad_"),
    "without weights": (lambda: {"model": nn.Flatten()}, r"no trainable weights \(0 parameters"),
    "a class": (lambda: {"model": Two}, r"model is the class Two.*fit\(Two\(\)"),
    "a function": (lambda: {"model": lambda x: x}, "model is a function, not a torch.nn.Module"),
    "wrapped": (lambda: {"model": nn.DataParallel(net())}, "wrapped in DataParallel.*module"),
    "not finite": (poisoned, "'0.weight' hold NaN or infinity before the first step"),
    "cut off": (lambda: {"model": Cut()}, "does not depend on any trainable weight"),
    "a state that forgets": (lambda: {"model": Forgetful()}, "trains 'layer.0.bias', which its state_dict"),
    "a state that is no tensor": (lambda: {"model": Extra()}, "its state '_extra_state' is dict"),
    "complex": (
        lambda: {"model": nn.Sequential(net(), Phase())}, "its state '1.phase' is torch.complex64.*no checkpoint",
    ),
    "on no device": (lambda: {"model": net().to("meta")}, "is on the meta device"),
    "dict outputs without a loss": (lambda: {"model": Two("dict")}, r"gives \{'logits': float32 \[4, 2\].*give a loss"),
    "a scalar among the outputs": (lambda: {"model": Two("scalar"), "loss": of_logits}, "as its first dimension"),
    "a list of results": (lambda: {"model": Two("list of results"), "loss": of_logits}, "no list of results"),
    "one output and no loss": (lambda: {"model": net(1)}, "cross-entropy of one class is always 0.*binary_cross"),
    "other inputs": (lambda: {"model": nn.Linear(9, 2)}, r"does not take inputs float32 \[4, 8\]"),
    "whole numbers in": (lambda: {"dataset": Points(item=lambda x, y: (x.long(), y))}, r"inputs int64 \[4, 8\]"),
    "batchnorm, a sample alone": (
        lambda: {"model": batchnorm_net(), "dataset": Points(65)},
        r"65 training samples in steps of 16 \(the last 1\).*batch.global_batch_size=15",
    ),
    "batchnorm, micro-batches of one": (
        lambda: {"model": batchnorm_net(), "batch": {"micro_batch_size": 1}}, "micro-batches of up to 1.*GroupNorm",
    ),
    "squeezed, a sample alone in the evaluation": (
        lambda: {
            "model": nn.Sequential(net(1), Squeeze()), "test_dataset": Points(9, 2), "batch": {"eval_batch_size": 8},
            "loss": lambda o, t: functional.binary_cross_entropy_with_logits(o, t.float()),
        },
        "cannot be evaluated alone.*batch.eval_batch_size=8",
    ),
    "sparse gradients": (
        lambda: {"model": nn.Sequential(nn.Embedding(9, 2, sparse=True), Pool()),
                 "dataset": Points(item=lambda x, y: (x.abs().long(), y))},
        "a step of training.*raised.*optim.name=sgd",
    ),
}  # fmt: skip


class Phase(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("phase", torch.ones(1, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Squeeze(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.squeeze()


class Pool(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


@pytest.mark.parametrize("name", REFUSED_NETWORKS)
def test_a_network_that_cannot_train_is_refused(name: str, tmp_path: Path) -> None:
    options, message = REFUSED_NETWORKS[name]
    made = options()
    refused(tmp_path, ConfigError, message, **(made if isinstance(made, dict) else {"model": made}))


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


@pytest.mark.parametrize("text", ["2024-01-01", ".inf", "!!binary aGk=", "!!set {a, b}", "{1: a}"])
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
