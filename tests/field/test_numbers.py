"""Every figure that is written is defined, every loss adds up, and a step that is left out leaves no trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from disttrain.errors import ConfigError, DataError, DivergedError
from disttrain.files import strict_json

from .parts import Points, batchnorm_net, fit, net, strict, strict_lines

Loss = Callable[[Any, Any], torch.Tensor]
WEIGHT = torch.tensor([1.0, 3.0])

# ------------------------------------------------------------------------------------------------ figures


def sign_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.float(), reduction="none")


def count_data(seed: int = 1) -> Points:
    return Points(40, seed, item=lambda x, y: (x, int(x.abs().sum())), classes=None)


def gaussian(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.gaussian_nll_loss(outputs[:, 0], targets.float(), outputs[:, 1].exp(), reduction="none")


FIGURES: dict[str, tuple[Callable[[], dict[str, Any]], bool]] = {
    "class scores": (dict, True),
    "class scores and a loss": (lambda: {"loss": nn.CrossEntropyLoss()}, True),
    "log probabilities": (lambda: {"model": nn.Sequential(net(), nn.LogSoftmax(1)), "loss": functional.nll_loss}, True),
    "margins": (lambda: {"loss": functional.multi_margin_loss}, True),
    "one output": (lambda: {"model": net(1), "loss": sign_loss}, False),
    "mean and variance of a count": (
        lambda: {"loss": gaussian, "dataset": count_data(), "test_dataset": count_data(2), "optim": {"lr": 1e-4}},
        False,
    ),
    "mean and variance of a class": (lambda: {"loss": gaussian}, False),
    "several labels": (
        lambda: {"loss": nn.BCEWithLogitsLoss(), "dataset": Points(item=lambda x, y: (x, (x[:2] > 0).float())),
                 "test_dataset": Points(9, 2, item=lambda x, y: (x, (x[:2] > 0).float()))}, False,
    ),
    "several whole labels": (
        lambda: {"loss": lambda o, t: functional.binary_cross_entropy_with_logits(o, t.float()),
                 "dataset": Points(item=lambda x, y: (x, [y, 1])),
                 "test_dataset": Points(9, 2, item=lambda x, y: (x, [y, 1]))}, False,
    ),
    "a regression": (
        lambda: {"model": nn.Sequential(net(1), nn.Flatten(0)), "loss": functional.mse_loss,
                 "dataset": Points(item=lambda x, y: (x, x[0])),
                 "test_dataset": Points(9, 2, item=lambda x, y: (x, x[0]))}, False,
    ),
    "a regression of a whole number": (
        lambda: {"model": nn.Sequential(net(1), nn.Flatten(0)), "loss": lambda o, t: (o - t).square().mean()}, False,
    ),
    "ignored labels counted as zero": (
        lambda: {"loss": nn.CrossEntropyLoss(reduction="none"),
                 "dataset": Points(item=lambda x, y: (x, y if x[1] > 0 else -100)),
                 "test_dataset": Points(9, 2, item=lambda x, y: (x, y if x[1] > 0 else -100))}, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_accuracy_is_there_where_outputs_are_classes_and_null_elsewhere(name: str, tmp_path: Path) -> None:
    options, has_accuracy = FIGURES[name]
    result = fit(tmp_path, **{"test_dataset": Points(9, 2), "train": {"epochs": 2}, **options()})
    assert (result["test"]["accuracy"] is not None) is has_accuracy
    assert ("confusion_matrix" in result["test"]) is has_accuracy
    lines = strict_lines(tmp_path / "run/metrics.jsonl")
    assert lines
    assert all((line["accuracy"] is not None) is has_accuracy for line in lines)
    for file in ("result.json", "status.json", "manifest.json", "model/model.json"):
        strict((tmp_path / "run" / file).read_text())


def test_the_accuracy_is_that_of_the_trained_network(tmp_path: Path) -> None:
    model, held_out = net(), Points(50, 2)
    result = fit(tmp_path, model=model, test_dataset=held_out, train={"epochs": 3})
    right = sum(int(model(x[None]).argmax()) == y for x, y in (held_out[at] for at in range(50)))
    assert result["test"]["accuracy"] == right / 50


def overflowing(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none") * (outputs.detach()[:, 0] * 0 + 1)


def test_a_loss_of_held_out_samples_that_is_not_finite_is_null(tmp_path: Path) -> None:
    bad = Points(9, 2, item=lambda x, y: (x * (float("inf") if y else 1.0), y))
    result = fit(tmp_path, test_dataset=bad)
    assert result["test"]["loss"] is None
    assert strict((tmp_path / "run/result.json").read_text())["test"]["loss"] is None


def test_a_validation_loss_that_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    def item(x: torch.Tensor, y: int) -> Any:
        return x * (math.inf if -0.05 < x[1] < 0.05 else 1.0), y

    options: dict[str, Any] = {"data": {"val_fraction": 0.5}, "train": {"epochs": 2, "nonfinite": "skip"}}
    data = Points(128, 5, item=item)
    assert sum(not bool(data[at][0].isfinite().all()) for at in range(128))
    options["train"] |= {"nonfinite_retries": 99}
    fit(tmp_path, dataset=data, **options)
    for values in (tmp_path / "run/checkpoints").glob("step_*/values.json"):
        figures = strict(values.read_text())
        assert figures["best"] is None or math.isfinite(figures["best"]["loss"])


def test_what_is_written_is_strict_json() -> None:
    value = {"a": math.nan, "b": [math.inf, 1.5, {"c": (-math.inf, "x", None, True, 3)}]}
    assert strict(strict_json(value)) == {"a": None, "b": [None, 1.5, {"c": [None, "x", None, True, 3]}]}


# ------------------------------------------------------------------------------------------------ losses


def dice(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    p = outputs.softmax(1)[:, 1]
    return 1 - 2 * (p * targets).sum() / (p.sum() + targets.sum() + 1)


def contrast(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)))


def focal(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    losses = functional.cross_entropy(outputs, targets, reduction="none")
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


def regularised(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs, targets) + 0.1 * outputs.square().mean()


# (loss, the same as one loss per sample)
ADDS_UP: dict[str, tuple[Loss, Loss]] = {
    "mean": (functional.cross_entropy, nn.CrossEntropyLoss(reduction="none")),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), nn.CrossEntropyLoss(reduction="none")),
    "weighted, one by one": (
        nn.CrossEntropyLoss(WEIGHT, reduction="none"),
        lambda o, t: functional.cross_entropy(o, t, reduction="none") * WEIGHT[t],
    ),
    "weighted sum": (nn.CrossEntropyLoss(WEIGHT, reduction="sum"), nn.CrossEntropyLoss(WEIGHT, reduction="none")),
    "smoothed": (
        nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(label_smoothing=0.1, reduction="none"),
    ),
    "focal": (focal, lambda o, t: torch.stack([focal(o[i : i + 1], t[i : i + 1]) for i in range(len(o))])),
    "regularised": (
        regularised,
        lambda o, t: functional.cross_entropy(o, t, reduction="none") + 0.1 * o.square().mean(1),
    ),
    "a column": (
        lambda o, t: functional.binary_cross_entropy_with_logits(o[:, :1], t[:, None].float(), reduction="none"),
        sign_loss,
    ),
    "equal weights": (nn.CrossEntropyLoss(torch.tensor([2.0, 2.0])), nn.CrossEntropyLoss(reduction="none")),
}  # fmt: skip


@pytest.mark.parametrize("name", ADDS_UP)
def test_a_loss_that_adds_up_trains_as_its_losses_per_sample_do(name: str, tmp_path: Path) -> None:
    weights = []
    as_it_is, per_sample = ADDS_UP[name]
    for number, (loss, micro) in enumerate([(as_it_is, None), (as_it_is, 3), (per_sample, None)]):
        folder = tmp_path / str(number)
        fit(folder, loss=loss, dataset=Points(50), batch={"micro_batch_size": micro})
        weights.append(load_file(folder / "run/model/model.safetensors"))
    for other in weights[1:]:
        assert all(torch.allclose(other[key], weights[0][key], rtol=1e-4, atol=1e-6) for key in other)


DOES_NOT_ADD_UP: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "weighted mean": (lambda: {"loss": nn.CrossEntropyLoss(WEIGHT)}, r"no mean and no sum.*reduction='none'"),
    "weighted mean, hardly": (lambda: {"loss": nn.CrossEntropyLoss(torch.tensor([1.0, 1.02]))}, "no mean and no sum"),
    "weighted mean of classes that are rare": (
        lambda: {"model": net(40), "loss": nn.CrossEntropyLoss(torch.tensor([1.0] * 39 + [2.0])),
                 "dataset": Points(classes=None)}, "no mean and no sum",
    ),
    "weighted mean, all outputs zero": (
        lambda: {"model": zero_net(), "loss": nn.CrossEntropyLoss(WEIGHT)}, "no mean and no sum",
    ),
    "weighted nll": (
        lambda: {"model": nn.Sequential(net(), nn.LogSoftmax(1)), "loss": nn.NLLLoss(WEIGHT)}, "no mean and no sum",
    ),
    "an ignored class": (lambda: {"loss": nn.CrossEntropyLoss(ignore_index=1)}, "leaves entries out"),
    "dice over the batch": (lambda: {"loss": dice}, "no mean and no sum.*compares samples"),
    "contrast": (lambda: {"loss": contrast}, "no mean and no sum"),
    "spread to [n, n]": (
        lambda: {"model": net(1), "loss": functional.mse_loss, "dataset": Points(item=lambda x, y: (x, x[0]))},
        r"Here \[n, 1\] and \[n\] are spread to \[n, n\].*squeeze",
    ),
    "a loss per class": (
        lambda: {"loss": nn.BCEWithLogitsLoss(reduction="none"), "dataset": Points(item=lambda x, y: (x, x[:2]))},
        r"gave \[4, 2\] for 4 samples: expected one loss per sample",
    ),
    "of two": (lambda: {"loss": lambda o, t: o.sum(0)}, r"gave \[2\] for 4 samples"),
    "no tensor": (lambda: {"loss": lambda o, t: functional.cross_entropy(o, t).item()}, "gave a float"),
    "a tuple": (lambda: {"loss": lambda o, t: (o.sum(), o)}, "gave a tuple"),
    "whole numbers": (lambda: {"loss": lambda o, t: (o.argmax(1) == t).long()}, r"gave int64 \[4\]"),
    "raises": (lambda: {"loss": functional.mse_loss}, "the loss|no mean"),
    "cut off": (lambda: {"loss": lambda o, t: functional.cross_entropy(o.detach(), t)}, "does not depend on any"),
    "draws": (lambda: {"loss": lambda o, t: (o * torch.rand_like(o)).sum(1).mean()}, "no mean and no sum"),
    "trains itself": (lambda: {"loss": Centre()}, "weights of its own to train"),
}  # fmt: skip


class Centre(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(2, 2))

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - self.centres[targets]).square().sum(1)


def zero_net() -> nn.Module:
    made = net()
    last = list(made.parameters())[-2:]
    with torch.no_grad():
        for one in last:
            one.zero_()
    return made


@pytest.mark.parametrize("name", DOES_NOT_ADD_UP)
def test_a_loss_that_does_not_add_up_is_refused_before_the_start(name: str, tmp_path: Path) -> None:
    options, message = DOES_NOT_ADD_UP[name]
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        fit(tmp_path, **options())
    assert not (tmp_path / "run").exists()


class Pixels(nn.Module):
    """A class for each of 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv1d(1, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x[:, None])


def pixel_data(hole: int | None = None) -> Points:
    """Targets [8]; of the samples with a negative first number one pixel is `hole`."""

    def item(x: torch.Tensor, y: int) -> Any:
        target = (x > 0).long() + (x > 1).long()
        if hole is not None and x[1] > 0.5:
            target[3] = hole
        return x, target

    return Points(48, item=item, classes=None)


def test_a_loss_per_pixel_is_the_mean_over_the_pixels_of_each_sample(tmp_path: Path) -> None:
    losses: dict[str, Loss | None] = {
        "default": None,
        "mean": functional.cross_entropy,
        "none": lambda o, t: functional.cross_entropy(o, t, reduction="none").flatten(1).mean(1),
    }
    found = {}
    for name, loss in losses.items():
        result = fit(tmp_path / name, model=Pixels(), dataset=pixel_data(), test_dataset=pixel_data(), loss=loss)
        assert result["test"]["accuracy"] is None
        found[name] = result["test"]["loss"]
    assert found["mean"] == pytest.approx(found["none"], rel=1e-5)
    assert found["default"] == pytest.approx(found["none"], rel=1e-5)


@pytest.mark.parametrize("hole", [-100, 255])
@pytest.mark.parametrize("loss", ["default", "mean"])
def test_an_ignored_pixel_under_a_mean_is_refused_by_its_sample(hole: int, loss: str, tmp_path: Path) -> None:
    own = nn.CrossEntropyLoss(ignore_index=hole) if loss == "mean" else None
    with pytest.raises((DataError, ConfigError), match=r"out of range|no mean and no sum|leaves entries out"):
        fit(tmp_path, model=Pixels(), dataset=pixel_data(hole), loss=own)


def test_an_ignored_pixel_in_a_loss_per_sample_is_counted_exactly(tmp_path: Path) -> None:
    def own(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs, targets, ignore_index=255, reduction="none").flatten(1).sum(1)

    model, data = Pixels(), pixel_data(255)
    result = fit(tmp_path, model=model, dataset=data, test_dataset=data, loss=own)
    with torch.no_grad():
        expected = np.mean([float(own(model(x[None]), t[None])) for x, t in (data[at] for at in range(48))])
    assert result["test"]["loss"] == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------------------------------------ steps left out


class Spoilt(Points):
    """Samples that spoil a step, by index: their input is replaced."""

    def __init__(self, count: int, bad: dict[int, float]) -> None:
        super().__init__(count)
        self.bad = bad

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        if index in self.bad:
            x[3] = self.bad[index]
        return x, y


class Root(nn.Module):
    """Finite outputs, and no finite gradient where the fourth input is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = net()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + 0.01 * (self.scale * x[:, 3:4]).abs().sqrt()


class Averaged(nn.Module):
    """A buffer that is replaced in every pass, and one that is changed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = batchnorm_net()
        self.register_buffer("average", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
        return self.layer(x)


LEFT_OUT: dict[str, tuple[Callable[[], nn.Module], float, dict[str, Any]]] = {
    "nan": (net, math.nan, {}),
    "batchnorm": (batchnorm_net, math.nan, {}),
    "batchnorm, infinity": (batchnorm_net, math.inf, {}),
    "a buffer replaced": (Averaged, math.nan, {}),
    "average of the weights": (batchnorm_net, math.nan, {"ema_decay": 0.9}),
    "a gradient alone": (Root, 0.0, {}),
    "bf16": (batchnorm_net, math.nan, {"precision": "bf16"}),
    "fp16": (batchnorm_net, math.nan, {"precision": "fp16"}),
    "dropout": (lambda: nn.Sequential(batchnorm_net(), nn.Dropout(0.3)), math.nan, {}),
}


@pytest.mark.parametrize("name", LEFT_OUT)
@pytest.mark.parametrize("micro", [None, 5])
def test_a_step_left_out_leaves_no_trace_and_blames_its_sample(name: str, micro: int | None, tmp_path: Path) -> None:
    """The only step is left out: all that is written is what the network came with."""
    make, value, options = LEFT_OUT[name]
    model = make()
    before = {key: one.clone() for key, one in model.state_dict().items()}
    fit(
        tmp_path, model=model, dataset=Spoilt(16, {9: value}), batch={"micro_batch_size": micro},
        train={"epochs": 1, "nonfinite": "skip", **options},
    )  # fmt: skip
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    (entry,) = strict_lines(tmp_path / "run/nonfinite.jsonl")
    assert entry["suspects"] == [9]
    assert len(entry["ids"]) == 16
    (line,) = strict_lines(tmp_path / "run/metrics.jsonl")
    assert line["loss"] is None
    (checkpoint,) = (tmp_path / "run/checkpoints").glob("step_*")
    kept = load_file(checkpoint / "tensors_0.safetensors")
    assert all(bool(one.isfinite().all()) for one in kept.values())
    momentum = [one for key, one in kept.items() if key.startswith("optimizer/")]
    assert momentum
    assert not any(bool(one.any()) for one in momentum)
    assert strict((checkpoint / "values.json").read_text())["unlogged"] == [0.0, 0.0, 0.0]


def test_outputs_of_minus_infinity_are_nobodys_fault(tmp_path: Path) -> None:
    """A class that is switched off has the score minus infinity: only the sample with a bad loss is blamed."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = net(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + torch.tensor([0.0, 0.0, -math.inf])

    with pytest.raises(DivergedError, match=r"\(ids\): 9\. See"):
        fit(tmp_path, model=Masked(), dataset=Spoilt(16, {9: math.nan}))


def test_training_goes_on_after_a_step_left_out_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Two steps of which the first is left out, and the second alone from the same beginning."""
    for seed in range(20):  # the order of two samples and a bad one is drawn; look for one that begins with the bad
        folder = tmp_path / str(seed)
        options: dict[str, Any] = {"train": {"epochs": 1, "nonfinite": "skip", "seed": seed}}
        model = batchnorm_net()
        fit(folder, model=model, dataset=Spoilt(32, {9: math.nan}), **options)
        (entry,) = strict_lines(folder / "run/nonfinite.jsonl")
        if entry["step"] == 1:
            break
    rest = [at for at in range(32) if at not in entry["ids"]]
    other = batchnorm_net().train()
    inputs = torch.stack([Points(32)[at][0] for at in rest])
    targets = torch.tensor([Points(32)[at][1] for at in rest])
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    functional.cross_entropy(other(inputs), targets).backward()
    optimizer.step()
    trained = other.state_dict()
    assert all(torch.allclose(one, trained[key], rtol=1e-4, atol=1e-6) for key, one in model.state_dict().items())
