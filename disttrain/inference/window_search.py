"""Where in a picture a network sees a class: all windows that it takes for one, without asking it about all windows.

The network looks coarsely first: in one pass over the picture where it allows that (`DensePass`), else at every second
window in both directions. Places that might show the class it classifies as windows, then the windows around those that
come close, then those around the ones that come closer still. What a window is given depends on the picture alone, not
on the tile that it is found in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from disttrain.data.scene import Scene
from disttrain.errors import DataError
from disttrain.inference.predictor import Predictor
from disttrain.models.dense import DensePass

TILE_PX = 512
_BATCH_SIZE = 256
_WINDOWS_ACROSS = 10
"""Windows that begin within the width of one: every second pixel for windows of 20."""
_SURROUNDINGS, _LEAST_CONTRAST = 3, 0.12
"""A place of the coarse pass may show the class where its logit is above the mean of so many places across, itself in
the middle, by this much: away from the class the pass is off alike over whole stretches of a picture."""
_ROUNDS = ((-3.1, 2), (-1.5, 1))
"""After the first windows: around those above a logit, so many windows more in every direction."""
_MIDDLE_GREY = 128.0
_FLATTEST = 5.0
"""Standard deviation of the grey levels below which a window shows nothing."""


@dataclass(frozen=True)
class Hits:
    """Windows in which a class was seen."""

    top: np.ndarray
    """int64 [n], pixels of the scene."""
    left: np.ndarray
    logit: np.ndarray
    """float32 [n]: log(p / (1 - p)) of the class, to three decimals."""

    @classmethod
    def joined(cls, parts: Sequence[Hits]) -> Hits:
        """Of several tiles, or of none."""
        none = cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        return cls(
            *(np.concatenate([getattr(one, name) for one in (none, *parts)]) for name in ("top", "left", "logit"))
        )


@dataclass(frozen=True)
class Tile:
    """Windows of the scene's grid: rows and columns from the first to before the end."""

    first_row: int
    end_row: int
    first_column: int
    end_column: int

    @property
    def rows(self) -> int:
        """Of windows."""
        return self.end_row - self.first_row

    @property
    def columns(self) -> int:
        """Of windows."""
        return self.end_column - self.first_column

    def widened(self, by: int, grid: tuple[int, int]) -> Tile:
        """With so many windows more on each side, as far as the grid of rows and columns goes."""
        return Tile(
            max(0, self.first_row - by),
            min(grid[0], self.end_row + by),
            max(0, self.first_column - by),
            min(grid[1], self.end_column + by),
        )

    def slices_of(self, inner: Tile) -> tuple[slice, slice]:
        """Where a tile within this one lies in an array [rows, columns] of this one."""
        return (
            slice(inner.first_row - self.first_row, inner.end_row - self.first_row),
            slice(inner.first_column - self.first_column, inner.end_column - self.first_column),
        )


class WindowSearch:
    """One class of a model, looked for in scenes."""

    def __init__(self, predictor: Predictor, class_index: int, threshold: float, tile_px: int = TILE_PX) -> None:
        """`threshold`: the least probability of a window that counts, above 0 and below 1."""
        _, self.height, self.width = predictor.spec.input_shape
        predictor.model.to(memory_format=torch.channels_last)  # a third faster on CPUs
        self.predictor, self.class_index, self.tile_px = predictor, class_index, tile_px
        self.threshold, self.least_logit = threshold, float(np.log(threshold / (1 - threshold)))
        self.step = max(1, min(self.height, self.width) // _WINDOWS_ACROSS)
        dense = DensePass.of(predictor.model, predictor.spec.input_shape)
        self.dense = dense if dense is not None and dense.stride % self.step == 0 else None
        self.coarse_step = self.dense.stride // self.step if self.dense else 2

    def grid(self, scene: Scene) -> tuple[int, int]:
        """Rows and columns of windows."""
        rows, columns = (scene.height - self.height) // self.step + 1, (scene.width - self.width) // self.step + 1
        return max(0, rows), max(0, columns)

    def tiles(self, scene: Scene) -> Iterator[Tile]:
        """All windows of a scene, each in one tile."""
        rows, columns = self.grid(scene)
        across = max(1, self.tile_px // self.step)
        for row in range(0, rows, across):
            for column in range(0, columns, across):
                yield Tile(row, min(rows, row + across), column, min(columns, column + across))

    @torch.inference_mode()
    def search(self, scene: Scene, tile: Tile) -> Hits:
        """The windows of the tile that reach the threshold. Raises UnreadableImage."""
        grid = self.grid(scene)
        wide = tile.widened(sum(radius for _, radius in _ROUNDS), grid)
        pixels, top, left = self._read(scene, wide)
        windows = pixels[:, wide.first_row * self.step - top :, wide.first_column * self.step - left :]
        windows = windows.unfold(1, self.height, self.step).unfold(2, self.width, self.step)
        windows = windows[:, : wide.rows, : wide.columns]
        textured = self._textured(pixels, top, left, wide)
        logits = torch.full((wide.rows, wide.columns), -torch.inf)
        if not textured.any():  # water, or what lies beside the picture in its frame
            return self.hits(logits[wide.slices_of(tile)], tile)
        chosen = self._candidates(pixels, top, left, wide)
        self._classify(windows, chosen & textured, logits)
        for number, (level, radius) in enumerate(_ROUNDS, start=1):
            # Only as far out as the rounds to come look.
            part = wide.slices_of(tile.widened(sum(radius for _, radius in _ROUNDS[number:]), grid))
            around = _dilated(logits > min(level, self.least_logit), radius) & textured & logits.isneginf()
            self._classify(windows[:, part[0], part[1]], around[part], logits[part])
        return self.hits(logits[wide.slices_of(tile)], tile)

    def _read(self, scene: Scene, tile: Tile) -> tuple[torch.Tensor, int, int]:
        """The pixels of a tile's windows and what the coarse look sees beyond, uint8 [channels, h, w]; top, left."""
        stride = self.dense.stride if self.dense else 1
        reach = self.dense.reach + _SURROUNDINGS // 2 * stride if self.dense else 0
        top = max(0, (tile.first_row * self.step - reach) // stride * stride)
        left = max(0, (tile.first_column * self.step - reach) // stride * stride)
        bottom = min(scene.height, (tile.end_row - 1) * self.step + self.height + reach)
        right = min(scene.width, (tile.end_column - 1) * self.step + self.width + reach)
        return torch.from_numpy(np.ascontiguousarray(scene.read(top, left, bottom - top, right - left))), top, left

    def _candidates(self, pixels: torch.Tensor, top: int, left: int, tile: Tile) -> torch.Tensor:
        """The windows of the tile to begin with, bool [rows, columns]: some of every `coarse_step`-th."""
        across = self.coarse_step
        first_row, first_column = (-(-first // across) * across for first in (tile.first_row, tile.first_column))
        chosen = torch.zeros(tile.rows, tile.columns, dtype=torch.bool)
        coarse = chosen[first_row - tile.first_row :: across, first_column - tile.first_column :: across]
        if self.dense is None:
            coarse.fill_(True)
            return chosen
        inputs = self.predictor.normalised(pixels[None]).contiguous(memory_format=torch.channels_last)
        scores = self.dense(inputs)[0].cpu()
        logits = self.logits(scores.flatten(1).T).view(scores.shape[1:])
        margin = _SURROUNDINGS // 2
        around = functional.pad(logits[None, None], (margin,) * 4, mode="replicate")
        contrast = logits - functional.avg_pool2d(around, _SURROUNDINGS, 1)[0, 0]
        rows, columns = (
            (first * self.step - start) // self.dense.stride
            for first, start in ((first_row, top), (first_column, left))
        )
        coarse.copy_(contrast[rows:, columns:][: coarse.shape[0], : coarse.shape[1]] > _LEAST_CONTRAST)
        return chosen

    def _classify(self, windows: torch.Tensor, chosen: torch.Tensor, logits: torch.Tensor) -> None:
        """Put the logits of the chosen windows of [channels, rows, columns, height, width] in their places."""
        rows, columns = chosen.nonzero(as_tuple=True)
        for at in range(0, len(rows), _BATCH_SIZE):
            batch = slice(at, at + _BATCH_SIZE)
            images = windows[:, rows[batch], columns[batch]].transpose(0, 1)
            logits[rows[batch], columns[batch]] = self.logits(self.predictor.scores(images))

    def logits(self, scores: torch.Tensor) -> torch.Tensor:
        """[n, classes] -> [n]: log(p / (1 - p)) of the class. Raises DataError for scores that are not finite."""
        if not scores.isfinite().all():
            raise DataError("the network gives scores that are not finite for windows of the scene. Train it again.")
        others = torch.arange(scores.shape[1]) != self.class_index
        return scores[:, self.class_index] - scores[:, others].logsumexp(1)

    def _textured(self, pixels: torch.Tensor, top: int, left: int, tile: Tile) -> torch.Tensor:
        """Which windows of the tile show anything: bool [rows, columns]."""
        grey = pixels[None, :, tile.first_row * self.step - top :, tile.first_column * self.step - left :]
        grey = grey.float().mean(1, keepdim=True) - _MIDDLE_GREY  # small numbers, whose squares lose little
        side = (self.height, self.width)
        variance = functional.avg_pool2d(grey.square(), side, self.step)
        variance -= functional.avg_pool2d(grey, side, self.step).square()
        return variance[0, 0, : tile.rows, : tile.columns] >= _FLATTEST**2

    def hits(self, logits: torch.Tensor, tile: Tile) -> Hits:
        """Those of a tile's windows, by their logits [rows, columns], that reach the threshold."""
        rows, columns = (logits >= self.least_logit).nonzero(as_tuple=True)
        return Hits(
            ((rows + tile.first_row) * self.step).numpy(),
            ((columns + tile.first_column) * self.step).numpy(),
            logits[rows, columns].numpy().round(3),
        )


def _dilated(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """True where the mask is within so many places in both directions."""
    return functional.max_pool2d(mask[None].float(), 2 * radius + 1, 1, radius)[0] > 0
