"""What the convolutional networks are made of. No layer mixes samples: any split of a batch gives the same result."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))), pre-activated (He et al. 2016); the last convolution begins at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float [n, channels, H, W] -> the same shape."""
        inner = self.first(functional.silu(self.norm(features)))
        return features + self.second(functional.silu(inner))


def downsample(channels: int, out_channels: int) -> list[nn.Module]:
    """A pre-activated convolution that halves height and width."""
    return [nn.GroupNorm(1, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)]


class ReadOut(nn.Module):
    """Class scores from the mean and the smooth maximum of every channel: where in the image does not matter.

    A smooth maximum (log-sum-exp, Pinheiro and Collobert 2015): where two pixels are equal to float rounding, the
    gradient of a hard one goes to whichever the rounding prefers, and trainings on 1 and on 2 workers part there.
    """

    SHARPNESS = 4.0

    def __init__(self, channels: int, class_count: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Linear(2 * channels, class_count)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float [n, channels, H, W] -> scores [n, classes]."""
        features = functional.silu(self.norm(features))
        maximum = (self.SHARPNESS * features).logsumexp((2, 3)) / self.SHARPNESS
        return self.scores(self.dropout(torch.cat([features.mean((2, 3)), maximum], dim=1)))
