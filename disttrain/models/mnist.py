"""Networks for 28x28 grey digits."""

from __future__ import annotations

import math

import torch
from torch import nn


class MnistMlp(nn.Module):
    """784-512-10: one hidden layer."""

    def __init__(
        self, input_shape: tuple[int, ...] = (1, 28, 28), class_count: int = 10, dropout: float = 0.0, hidden: int = 512
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(math.prod(input_shape), hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, class_count)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float [n, 1, 28, 28] -> scores [n, 10]."""
        return self.head(self.dropout(self.hidden(images.flatten(1)).relu()))


class MnistCnn(nn.Module):
    """TODO recipe."""

    def __init__(
        self, input_shape: tuple[int, ...] = (1, 28, 28), class_count: int = 10, dropout: float = 0.0, width: int = 32
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(input_shape[0], width, 3, padding=1),
            nn.GELU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.GELU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.LazyLinear(class_count),
        )
        self.body(torch.zeros(1, *input_shape))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)
