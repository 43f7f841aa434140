"""Networks for 28x28 grey digits."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from disttrain.models.layers import ReadOut, Residual, downsample


class MnistMlp(nn.Module):
    """784-512-10: one hidden layer; 407,050 weights."""

    def __init__(
        self, input_shape: tuple[int, ...] = (1, 28, 28), class_count: int = 10, dropout: float = 0.0, hidden: int = 512
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(math.prod(input_shape), hidden)
        self.dropout = nn.Dropout(dropout)
        self.read_out = nn.Linear(hidden, class_count)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float [n, 1, 28, 28] -> scores [n, 10]."""
        return self.read_out(self.dropout(functional.gelu(self.hidden(images.flatten(1)))))


class MnistCnn(nn.Module):
    """Convolutions at 14 and 7 pixels with 32 and 64 channels; 94,794 weights."""

    def __init__(
        self, input_shape: tuple[int, ...] = (1, 28, 28), class_count: int = 10, dropout: float = 0.0, width: int = 32
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(input_shape[0], width, 5, stride=2, padding=2), *downsample(width, 2 * width), Residual(2 * width)
        )
        self.read_out = ReadOut(2 * width, class_count, dropout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float [n, 1, 28, 28] -> scores [n, 10]."""
        return self.read_out(self.features(images))
