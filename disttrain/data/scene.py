"""Whole satellite scenes, read piece by piece: pixels as `decode` shows them, and where they lie on the map."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from disttrain.data.decode import UnreadableImage, decode_whole, tiff_tags
from disttrain.data.georeference import Georeference
from disttrain.data.image_store import read_image_file
from disttrain.data.tiff_windows import open_tiff_windows

LARGEST_PIXELS = 100_000_000
"""Of a scene that is decoded as a whole, which takes about 1 GB."""


class Scene(Protocol):
    """A picture of any size."""

    height: int
    width: int
    georeference: Georeference | None

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The pixels of a part of it -> uint8 [channels, height, width]. Raises UnreadableImage."""
        ...


class MemoryScene:
    """A scene that is in memory as a whole."""

    def __init__(self, pixels: np.ndarray, georeference: Georeference | None = None) -> None:
        """`pixels`: uint8 [channels, height, width]."""
        self._pixels, self.georeference = pixels, georeference
        self.height, self.width = pixels.shape[1:]

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A view of the pixels."""
        return self._pixels[:, top : top + height, left : left + width]


class WholeScene(MemoryScene):
    """A file that is decoded as a whole."""

    def __init__(self, path: Path, channels: int) -> None:
        """Raises UnreadableImage: no image, damaged, or too large for this."""
        data = read_image_file(path)
        try:
            pixels = decode_whole(data, channels, LARGEST_PIXELS)
        except UnreadableImage as error:
            raise UnreadableImage(f"{error}{_way_out(str(error))}") from None
        tags = tiff_tags(data)
        super().__init__(pixels, Georeference.of_tags(tags, path.name) if tags else None)


def open_scene(path: Path, channels: int) -> Scene:
    """A scene as RGB (3 channels) or grey (1): TIFFs by window where that is possible, other files as a whole.

    Raises UnreadableImage.
    """
    return open_tiff_windows(path, channels) or WholeScene(path, channels)


def _way_out(reason: str) -> str:
    if f"more than {LARGEST_PIXELS:,}" not in reason and "decompression bomb" not in reason:
        return ""
    return (
        ". Scenes of that size are read by window, from tiled or striped TIFFs of 8 or 16 bits: save it as one, and "
        "install disttrain[scenes]"
    )
