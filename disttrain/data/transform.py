"""uint8 images -> normalised, augmented float batches, on the device, without a loop over samples.

What happens to a sample is drawn from (seed, epoch, sample id) alone, so it does not depend on the rank, the
micro-batch or the loader process that handles it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch

from disttrain.config.sections import DataConfig
from disttrain.errors import ConfigError
from disttrain.seed import mix, mix_ids

Symmetry = tuple[bool, bool, bool]
"""(transpose, flip top-bottom, flip left-right), the flips before the transpose: each of the square's 8 symmetries
is one such triple."""


_PIXELS, _EXPOSURE = 1, 2  # what a draw is for

NO_SYMMETRIES: tuple[Symmetry, ...] = ((False, False, False),)


@dataclass(frozen=True)
class Augmentation:
    """What a training sample may go through: symmetries of the square, shifts, another exposure."""

    symmetries: tuple[Symmetry, ...] = NO_SYMMETRIES
    shift_px: int = 0
    brightness: float = 0.0
    contrast: float = 0.0

    @classmethod
    def build(cls, data: DataConfig, height: int, width: int) -> Augmentation:
        """What the config asks for. Raises ConfigError where images of this size cannot be turned or shifted so."""
        if data.quarter_turns and height != width:
            raise ConfigError(
                f"data.quarter_turns=true needs square images, and these are {height}x{width}. Set it to false, or "
                "data.image_size to a square."
            )
        if data.shift_px >= min(height, width):
            raise ConfigError(
                f"data.shift_px={data.shift_px} is not smaller than the images of {height}x{width} pixels. Use less."
            )
        both = (False, True)
        every = itertools.product(both, both, both)
        if data.quarter_turns and not (data.horizontal_flip or data.vertical_flip):
            allowed = [(t, v, h) for t, v, h in every if t == (v != h)]  # the rotations alone
        elif data.quarter_turns:
            allowed = list(every)  # turns and one flip generate all 8
        else:
            allowed = [
                (t, v, h) for t, v, h in every if not t and v <= data.vertical_flip and h <= data.horizontal_flip
            ]
        return cls(tuple(allowed), data.shift_px, data.brightness, data.contrast)

    @property
    def moves_pixels(self) -> bool:
        """Whether a symmetry or a shift is on."""
        return len(self.symmetries) > 1 or self.shift_px > 0

    @property
    def changes_exposure(self) -> bool:
        """Whether brightness or contrast vary."""
        return self.brightness > 0 or self.contrast > 0


def apply_symmetry(images: torch.Tensor, symmetry: Symmetry) -> torch.Tensor:
    """One symmetry for a whole batch [n, C, H, W]."""
    transpose, top_bottom, left_right = symmetry
    flips = [dim for dim, on in ((2, top_bottom), (3, left_right)) if on]
    images = images.flip(flips) if flips else images
    return images.transpose(2, 3) if transpose else images


@dataclass(frozen=True)
class ImageTransform:
    """Normalisation with the training split's statistics, and augmentation."""

    mean: tuple[float, ...]
    """Per channel, in pixel values 0 to 255."""
    std: tuple[float, ...]
    augmentation: Augmentation
    seed: int
    device: torch.device
    channels_last: bool = False

    def __call__(self, images: torch.Tensor, ids: torch.Tensor, epoch: int | None) -> torch.Tensor:
        """uint8 [n, C, H, W] with int64 ids [n] -> float32 [n, C, H, W]; `epoch` None: normalised only."""
        scale, offset = self._scale_and_offset
        if epoch is not None and self.augmentation.moves_pixels:
            images = self._move_pixels(images, mix_ids(mix(self.seed, epoch, _PIXELS), ids))
        if epoch is not None and self.augmentation.changes_exposure:
            draws = mix_ids(mix(self.seed, epoch, _EXPOSURE), ids).view(-1, 1, 1, 1)
            gain = 1 + self.augmentation.contrast * _symmetric_uniform(draws)
            scale, offset = scale * gain, offset * gain + self.augmentation.brightness * _symmetric_uniform(draws >> 24)
        normalised = torch.addcmul(offset, images, scale)
        return normalised.contiguous(memory_format=torch.channels_last) if self.channels_last else normalised

    @cached_property
    def _scale_and_offset(self) -> tuple[torch.Tensor, torch.Tensor]:
        scale = 1 / torch.tensor(self.std, dtype=torch.float64)
        offset = -torch.tensor(self.mean, dtype=torch.float64) * scale
        shape = (1, -1, 1, 1)
        return scale.float().view(shape).to(self.device), offset.float().view(shape).to(self.device)

    @cached_property
    def _symmetry_table(self) -> torch.Tensor:
        return torch.tensor(self.augmentation.symmetries, device=self.device)

    def _move_pixels(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Every pixel's source is computed per sample, then all move in one gather."""
        count, channels, height, width = images.shape
        span = 2 * self.augmentation.shift_px + 1
        down = (draws >> 8) % span - self.augmentation.shift_px
        right = (draws >> 32) % span - self.augmentation.shift_px
        transpose, top_bottom, left_right = self._symmetry_table[draws % len(self._symmetry_table)].unbind(1)
        rows = _source_positions(height, down, top_bottom)
        columns = _source_positions(width, right, left_right)
        upright = rows[:, :, None] * width + columns[:, None, :]
        if self._symmetry_table[:, 0].any():
            turned = rows[:, None, :] * width + columns[:, :, None]
            upright = torch.where(transpose[:, None, None], turned, upright)
        source = upright.view(count, 1, height * width).expand(-1, channels, -1)
        return images.reshape(count, channels, height * width).gather(2, source).view(images.shape)


def _symmetric_uniform(draws: torch.Tensor) -> torch.Tensor:
    """The lowest 24 bits as a float32 in [-1, 1)."""
    return (draws & 0xFFFFFF).float() * 2**-23 - 1


def _source_positions(size: int, shift: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Where each of `size` positions comes from, per sample: int64 [n, size], the border reflected."""
    positions = torch.arange(size, device=shift.device)
    positions = torch.where(flip[:, None], size - 1 - positions, positions) + shift[:, None]
    positions = positions.abs()
    return (size - 1) - ((size - 1) - positions).abs()
