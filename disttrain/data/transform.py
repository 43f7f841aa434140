"""uint8 images -> normalised, augmented float batches, on the device, without a loop over samples.

What happens to a sample is drawn from (seed, epoch, sample id) alone, so it does not depend on the rank, the
micro-batch or the loader process that handles it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from disttrain.config.sections import DataConfig
from disttrain.errors import ConfigError
from disttrain.seed import mix, mix_ids

Symmetry = tuple[bool, bool, bool]
"""(transpose, flip top-bottom, flip left-right), the flips before the transpose: each of the square's 8 symmetries
is one such triple."""


_PIXELS, _EXPOSURE, _ZOOM = 1, 2, 3  # what a draw is for

NO_SYMMETRIES: tuple[Symmetry, ...] = ((False, False, False),)


@dataclass(frozen=True)
class Augmentation:
    """What a training sample may go through: symmetries of the square, shifts, another size, another exposure."""

    symmetries: tuple[Symmetry, ...] = NO_SYMMETRIES
    shift_px: int = 0
    zoom: float = 0.0
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
        return cls(tuple(allowed), data.shift_px, data.zoom, data.brightness, data.contrast)

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
class AugmentationParams:
    """What chance holds for each of n samples. Drawn for a whole pass at once, so that a batch only looks it up."""

    scale: torch.Tensor
    """float32 [n, C, 1, 1], or [1, C, 1, 1] where it is the same for all."""
    offset: torch.Tensor
    moves: torch.Tensor | None = None
    """int64 [n, 3]: where rows come from, where columns do (both as rows of a table), and whether to transpose."""
    extents: torch.Tensor | None = None
    """float32 [n]: the share of width and height, about the centre, that fills the image afterwards."""

    def split(self, sizes: Sequence[int]) -> Iterator[AugmentationParams]:
        """The draws of consecutive batches."""
        end = 0
        for size in sizes:
            part = slice(end, end := end + size)
            same_for_all = len(self.scale) == 1
            yield AugmentationParams(
                self.scale if same_for_all else self.scale[part],
                self.offset if same_for_all else self.offset[part],
                None if self.moves is None else self.moves[part],
                None if self.extents is None else self.extents[part],
            )


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
        return self.apply(images, self.draw(ids, epoch))

    def draw(self, ids: torch.Tensor, epoch: int | None) -> AugmentationParams:
        """What happens to the samples with these int64 ids [n] in an epoch; `epoch` None: nothing but normalisation."""
        scale, offset = self._scale_and_offset
        moves = extents = None
        if epoch is not None and self.augmentation.moves_pixels:
            draws = mix_ids(mix(self.seed, epoch, _PIXELS), ids)
            span = 2 * self.augmentation.shift_px + 1
            transpose, top_bottom, left_right = self._symmetry_table[draws % len(self._symmetry_table)].unbind(1)
            rows, columns = (draws >> 8) % span * 2 + top_bottom, (draws >> 32) % span * 2 + left_right
            moves = torch.stack([rows, columns, transpose], dim=1)
        if epoch is not None and self.augmentation.zoom:
            extents = 1 + self.augmentation.zoom * _symmetric_uniform(mix_ids(mix(self.seed, epoch, _ZOOM), ids))
        if epoch is not None and self.augmentation.changes_exposure:
            draws = mix_ids(mix(self.seed, epoch, _EXPOSURE), ids).view(-1, 1, 1, 1)
            gain = 1 + self.augmentation.contrast * _symmetric_uniform(draws)
            scale, offset = scale * gain, offset * gain + self.augmentation.brightness * _symmetric_uniform(draws >> 24)
        return AugmentationParams(scale, offset, moves, extents)

    def apply(self, images: torch.Tensor, draws: AugmentationParams) -> torch.Tensor:
        """uint8 [n, C, H, W] -> float32 [n, C, H, W]."""
        if draws.moves is not None:
            images = self._move_pixels(images, draws.moves)
        if draws.extents is not None:
            for dim in (2, 3):
                images = _resampled(images, draws.extents, dim)
        normalised = torch.addcmul(draws.offset, images, draws.scale)
        return normalised.contiguous(memory_format=torch.channels_last) if self.channels_last else normalised

    @cached_property
    def _scale_and_offset(self) -> tuple[torch.Tensor, torch.Tensor]:
        scale = 1 / torch.tensor(self.std, dtype=torch.float64)
        offset = -torch.tensor(self.mean, dtype=torch.float64) * scale
        shape = (1, -1, 1, 1)
        return scale.float().view(shape).to(self.device), offset.float().view(shape).to(self.device)

    @cached_property
    def _symmetry_table(self) -> torch.Tensor:
        return torch.tensor(self.augmentation.symmetries, dtype=torch.int64, device=self.device)

    def _move_pixels(self, images: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
        """The source of every pixel is looked up per sample, then all move in one gather."""
        count, channels, height, width = images.shape
        row_table, column_table = self._source_tables(height, width)
        rows, columns, transpose = moves.unbind(1)
        source = row_table[rows][:, :, None] + column_table[columns][:, None, :]
        if any(transposes for transposes, _, _ in self.augmentation.symmetries):
            source = torch.where(transpose[:, None, None] == 1, source.transpose(1, 2), source)
        source = source.reshape(count, 1, height * width).expand(-1, channels, -1)
        return images.reshape(count, channels, height * width).gather(2, source).view(images.shape)

    def _source_tables(self, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each row (times width) and each column comes from, for every shift with and without a flip."""
        if (height, width) not in self._tables:
            rows, columns = (_source_positions(size, self.augmentation.shift_px) for size in (height, width))
            self._tables[height, width] = (rows * width).to(self.device), columns.to(self.device)
        return self._tables[height, width]

    @cached_property
    def _tables(self) -> dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]:
        return {}


def _symmetric_uniform(draws: torch.Tensor) -> torch.Tensor:
    """The lowest 24 bits as a float32 in [-1, 1)."""
    return (draws & 0xFFFFFF).float() * 2**-23 - 1


def _resampled(images: torch.Tensor, extents: torch.Tensor, dim: int) -> torch.Tensor:
    """float32 [n, C, H, W]: along one dimension, that share of the image about its centre, linearly interpolated."""
    last = images.shape[dim] - 1
    from_centre = torch.arange(last + 1, device=images.device) - last / 2
    positions = (last / 2 + extents[:, None] * from_centre).abs()
    positions = last - (last - positions).abs()  # what lies outside is reflected
    below = positions.long()
    shape = [len(images), 1, 1, 1]
    shape[dim] = last + 1

    def pixels(source: torch.Tensor) -> torch.Tensor:
        return images.gather(dim, source.view(shape).expand_as(images)).float()

    return pixels(below).lerp(pixels((below + 1).clamp_(max=last)), (positions - below).view(shape))


def _source_positions(size: int, shift_px: int) -> torch.Tensor:
    """int64 [2 * (2 * shift_px + 1), size]: sources for each shift, without and with a flip; the border reflects."""
    shifts = torch.arange(-shift_px, shift_px + 1).repeat_interleave(2)[:, None]
    straight = torch.arange(size)
    flips = torch.arange(len(shifts))[:, None] % 2 == 1
    positions = (torch.where(flips, size - 1 - straight, straight) + shifts).abs()
    return (size - 1) - ((size - 1) - positions).abs()
