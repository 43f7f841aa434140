"""The PlanesNet network: 20x20 RGB chips, plane or no-plane."""

from __future__ import annotations

import torch
from torch import nn

from disttrain.models.layers import ReadOut, Residual, downsample


class PlanesNetCnn(nn.Module):
    """Convolutions at 20, 10 and 5 pixels with 32, 64 and 128 channels; 463,618 weights."""

    def __init__(
        self, input_shape: tuple[int, ...] = (3, 20, 20), class_count: int = 2, dropout: float = 0.0, width: int = 32
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(input_shape[0], width, 3, padding=1),
            *downsample(width, 2 * width),
            Residual(2 * width),
            *downsample(2 * width, 4 * width),
            Residual(4 * width),
        )
        self.read_out = ReadOut(4 * width, class_count, dropout)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float [n, 3, 20, 20] -> scores [n, 2]."""
        return self.read_out(self.features(images))
