"""Networks, datasets and losses that the ranks of these tests train: small, fast, and none of them shipped."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from disttrain.data.base import ImageArrays
from disttrain.data.datasets.synthetic import draw_arrays
from disttrain.models.planesnet import PlanesNetCnn


class SmallCnn(nn.Module):
    """PlanesNet's kind of network in small.

    Smooth on purpose: max-pooling over nearly equal pixels turns a difference of rounding into another gradient.
    """

    def __init__(self, input_shape: tuple[int, ...], class_count: int, batch_norm: bool = False) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1, bias=not batch_norm),
            nn.BatchNorm2d(8) if batch_norm else nn.Identity(),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Linear(16 * (height // 4) * (width // 4), class_count)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def _with_test(images: np.ndarray, labels: np.ndarray, names: tuple[str, ...], train: int) -> ImageArrays:
    return ImageArrays(images, labels, names, is_test=np.arange(len(labels)) >= train)


def planes(train: int, test: int = 0) -> ImageArrays:
    """Exactly so many drawn chips for training and for the test; `data.split: official` takes them so."""
    drawn = draw_arrays(train + test, 0)
    return _with_test(drawn.images, drawn.labels, drawn.class_names, train)


def digits(train: int, test: int = 0) -> ImageArrays:
    """28x28 pictures whose brightest row tells the class, in MNIST's form."""
    draw = np.random.RandomState(3)
    labels = draw.randint(0, 10, train + test).astype(np.int64)
    images = draw.randint(0, 200, (train + test, 1, 28, 28)).astype(np.uint8)
    images[np.arange(len(labels)), 0, 2 * labels + 4] = 255
    return _with_test(images, labels, tuple("0123456789"), train)


class DamagedNet(PlanesNetCnn):
    """Flips a bit of a weight on rank 1, before its forward pass number `flips_at`."""

    def __init__(self, input_shape: tuple[int, ...], class_count: int, flips_at: int = -1, bit: int = 0) -> None:
        super().__init__(input_shape, class_count, width=8)
        self.flips_at, self.bit, self.forwards = flips_at, bit, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.forwards += self.training
        if self.training and self.forwards == self.flips_at and dist.get_rank() == 1:
            self.read_out.scores.weight.detach().view(torch.int32).view(-1)[3] ^= 1 << self.bit
        return super().forward(images)


class Points(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Floats [2] in two classes; with `noise` its own random augmentation, from all three usual generators."""

    classes = ("inside", "outside")

    def __init__(self, count: int, noise: bool = False, broken: int | None = None) -> None:
        self.points = torch.randn(count, 2, generator=torch.Generator().manual_seed(count))
        self.noise, self.broken = noise, broken

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == self.broken:
            raise ValueError("this point is not there")
        point = self.points[index]
        target = int(point.norm() > 1.2)
        if self.noise:
            point = point + 0.1 * torch.randn(2) + random.gauss(0, 0.1) + np.random.normal(0, 0.1)
        return point.float(), target


class PointNet(nn.Module):
    """Scores [n, 2] for floats [n, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.layers(points)


def margin_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One loss per sample."""
    return functional.multi_margin_loss(outputs, targets, p=2, reduction="none")


def mean_margin_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean over the samples, as torch's losses give it."""
    return functional.multi_margin_loss(outputs, targets, p=2)


def loss_that_overflows(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, a million times as large for the class 9: its fp16 gradients overflow, others' do not."""
    return functional.cross_entropy(outputs, targets, reduction="none") * torch.where(targets == 9, 1e6, 1.0)


def digits_with_one_nine(train: int) -> ImageArrays:
    """`digits` of the classes 0 to 8, but for a single 9."""
    made = digits(train)
    labels = np.where(made.labels == 9, 0, made.labels)
    labels[train // 2] = 9
    return ImageArrays(made.images, labels, made.class_names, is_test=made.is_test)


def kill_this_rank() -> None:
    """End as the out-of-memory killer ends a process."""
    os.kill(os.getpid(), signal.SIGKILL)


class Rows(Points):
    """Floats [2, 4] in two classes; those with the ids `bad` are not finite."""

    def __init__(self, count: int, bad: list[int]) -> None:
        self.rows = torch.randn(count, 2, 4, generator=torch.Generator().manual_seed(count))
        self.rows[bad] = float("nan")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.rows[index], index % 2


def rows(count: int, bad: list[int]) -> Rows:
    return Rows(count, bad)


class RowNet(nn.Module):
    """BatchNorm that takes one sample alone; with `unused` a layer that has no part in the loss."""

    def __init__(self, class_count: int, unused: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(8, 16), nn.Tanh())
        self.head = nn.Linear(16, class_count)
        self.spare = nn.Linear(2, 2) if unused else None

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(points))


def weighted_mean(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs, targets, torch.tensor([1.0, 5.0]))
