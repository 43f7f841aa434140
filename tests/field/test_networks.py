"""What users bring as networks: they train, or one message says why not, before any step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from disttrain.errors import ConfigError

from .parts import Points, batchnorm_net, fit, net, refused


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
    seen: torch.Tensor

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


REFUSED_NETWORKS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "frozen": (lambda: {"model": net().requires_grad_(False)}, r"no trainable weights \(4 parameters.*requires_grad_"),
    "without weights": (lambda: {"model": nn.Flatten()}, r"no trainable weights \(0 parameters"),
    "a class": (lambda: {"model": Two}, r"model is the class Two.*fit\(Two\(\)"),
    "compiled by torch.jit": (
        lambda: {"model": torch.jit.trace(net(), torch.zeros(1, 8))}, "compiled by torch.jit: give the network before"
    ),
    "a function": (lambda: {"model": lambda x: x}, "model is a function, not a torch.nn.Module"),
    "wrapped": (lambda: {"model": nn.DataParallel(net())}, "wrapped in DataParallel.*module"),
    "not finite": (lambda: {"model": poisoned()}, "'0.weight' hold NaN or infinity before the first step"),
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
    refused(tmp_path, ConfigError, message, **options())


def test_layers_in_evaluation_mode_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = batchnorm_net()
    model[1].eval()  # type: ignore[index]
    fit(tmp_path, model)
    assert "1 layers are in evaluation mode, e.g. 1 (BatchNorm1d)" in caplog.text
