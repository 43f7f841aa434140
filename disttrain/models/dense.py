"""Class scores at every place of a whole picture in one pass of a convolutional network, near to those of its windows.

A network of this package normalises over its whole input, so that no pass over a picture gives exactly what it gives
for each window. Here every place is normalised by its own surroundings, as large as a window, and convolutions at the
border of a window see what lies beyond it. What comes out tells where to look, at the cost of a few thousand windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from disttrain.models.layers import ReadOut, Residual

_LARGEST = 80.0
"""Exponent whose power float32 holds, as often as a window has places."""


@dataclass(frozen=True)
class DensePass:
    """A network of `features` and a `read_out`, applied to pictures that are larger than its input."""

    features: nn.Sequential
    read_out: ReadOut
    side: int
    """Pixels of a window, which is square."""

    @classmethod
    def of(cls, model: nn.Module, input_shape: tuple[int, ...]) -> DensePass | None:
        """None for a network that is not built of this package's layers, or whose strides do not divide its input."""
        features, read_out = getattr(model, "features", None), getattr(model, "read_out", None)
        if not isinstance(features, nn.Sequential) or not isinstance(read_out, ReadOut):
            return None
        if len(input_shape) != 3 or input_shape[1] != input_shape[2] or not all(map(_is_known, features)):
            return None
        made = cls(features, read_out, input_shape[1])
        return made if made.side % made.stride == 0 else None

    @property
    def stride(self) -> int:
        """Pixels from one place to the next."""
        stride = 1
        for layer in self.features:
            stride *= layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
        return stride

    @property
    def reach(self) -> int:
        """How far beyond a window's border, in pixels, lies what its scores still depend on."""
        reach, scale = 0, 1
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                reach += layer.kernel_size[0] // 2 * scale
                scale *= layer.stride[0]
            elif isinstance(layer, nn.GroupNorm):
                reach += self.side // 2
            elif isinstance(layer, Residual):
                reach += self.side // 2 + 2 * scale
        return reach + self.side // 2 + scale

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised float [n, channels, H, W] -> scores [n, classes, (H - side) // stride + 1, the same of W].

        Row i and column j are for the window whose corner is at (i, j) times `stride`.
        """
        values, cells = images, self.side  # how many places a window has across
        for layer in self.features:
            if isinstance(layer, nn.GroupNorm):
                values = _normalised(layer, values, cells)
            elif isinstance(layer, Residual):
                inner = layer.first(functional.silu(_normalised(layer.norm, values, cells)))
                values = values + layer.second(functional.silu(inner))
            else:
                values = layer(values)
                cells //= layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
        values = functional.silu(_normalised(self.read_out.norm, values, cells))
        mean = functional.avg_pool2d(values, cells, 1)
        sharpness = self.read_out.SHARPNESS
        powers = (sharpness * values.clamp_max(_LARGEST / sharpness)).exp()
        maximum = (functional.avg_pool2d(powers, cells, 1) * cells**2).log() / sharpness
        linear = self.read_out.scores
        scores = functional.conv2d(torch.cat([mean, maximum], 1), linear.weight[:, :, None, None], linear.bias)
        rows, columns = ((size - self.side) // self.stride + 1 for size in images.shape[2:])
        return scores[:, :, :rows, :columns]


def _is_known(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size[0] // 2 == layer.padding[0] and layer.stride[0] == layer.stride[1]
    return isinstance(layer, nn.SiLU | Residual) or (isinstance(layer, nn.GroupNorm) and layer.num_groups == 1)


def _normalised(norm: nn.GroupNorm, values: torch.Tensor, cells: int) -> torch.Tensor:
    """By mean and variance over all channels of the surroundings, `cells` places across."""
    mean = _box_mean(values.mean(1, keepdim=True), cells)
    variance = _box_mean(values.square().mean(1, keepdim=True), cells) - mean.square()
    scaled = (values - mean) * (variance.clamp_min(0) + norm.eps).rsqrt()
    return torch.addcmul(norm.bias.view(1, -1, 1, 1), scaled, norm.weight.view(1, -1, 1, 1))


def _box_mean(values: torch.Tensor, cells: int) -> torch.Tensor:
    before, after = cells // 2, cells - 1 - cells // 2
    values = functional.pad(values, (before, after, before, after), mode="replicate")
    return functional.avg_pool2d(functional.avg_pool2d(values, (cells, 1), 1), (1, cells), 1)
