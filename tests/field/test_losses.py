"""A loss adds up over samples, micro-batches and ranks, or it is refused before the start."""

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

from disttrain.errors import ConfigError, DataError

from .parts import Points, fit, net, sign_loss

Loss = Callable[[Any, Any], torch.Tensor]
WEIGHT = torch.tensor([1.0, 3.0])


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


@pytest.mark.parametrize("mark", [math.nan, -1.0, 0.0, -100.0])
def test_a_mean_over_what_is_not_missing_is_refused_though_nothing_is_missing_yet(mark: float, tmp_path: Path) -> None:
    def present(targets: torch.Tensor) -> torch.Tensor:
        return ~targets.isnan() if math.isnan(mark) else targets != mark

    for shape in ((), (2,)):
        data = Points(item=lambda x, y, shape=shape: (x, torch.full(shape, 1.5 + y)))  # type: ignore[misc]
        with pytest.raises(ConfigError, match=r"leaves entries out|no mean and no sum"):
            fit(
                tmp_path,
                net(2) if shape else nn.Sequential(net(1), nn.Flatten(0)),
                data,
                loss=lambda o, t: ((o - t) ** 2)[present(t)].mean(),
            )
    assert not (tmp_path / "run").exists()
