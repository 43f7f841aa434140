"""Parts of a TIFF of any size: only the tiles or strips that a part lies on are read and decoded (tifffile)."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from disttrain.data.decode import UnreadableImage, shown_image
from disttrain.data.georeference import Georeference

_CACHE_BYTES = 128 << 20
"""Of decoded tiles and strips that are kept: the strips of a wide scene lie on many parts."""
_LARGEST_SEGMENT_BYTES = 64 << 20
_GREY, _RGB, _YCBCR = 1, 2, 6  # PhotometricInterpretation
_MODES = {
    # Photometric interpretation is grey; samples; ExtraSamples (0: no alpha, 1: colours multiplied by it, 2: not)
    (True, 1, ()): "L",
    (True, 2, (2,)): "LA",
    (False, 3, ()): "RGB",
    (False, 4, (0,)): "RGBX",
    (False, 4, (1,)): "RGBa",
    (False, 4, (2,)): "RGBA",
}


class TiffWindows:
    """A scene in a TIFF whose pixels stand there as they are shown: 8 or 16 bits, grey or RGB, alpha or none."""

    def __init__(self, page: Any, path: Path, mode: str, channels: int) -> None:
        self.height, self.width = int(page.imagelength), int(page.imagewidth)
        tags = {tag.code: tag.value if isinstance(tag.value, tuple) else (tag.value,) for tag in page.tags}
        self.georeference = Georeference.of_tags(tags, path.name)
        self._page, self._mode, self._channels = page, mode, channels
        self._segment_height, self._segment_width = page.chunks[:2]
        kept = max(1, _CACHE_BYTES // _segment_bytes(page))
        self._segment = functools.lru_cache(maxsize=kept)(self._decode_segment)

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The pixels of a part of it -> uint8 [channels, height, width]. Raises UnreadableImage."""
        shown = np.empty((height, width, self._channels), np.uint8)
        tall, wide = self._segment_height, self._segment_width
        for row in range(top // tall, -(-(top + height) // tall)):
            for column in range(left // wide, -(-(left + width) // wide)):
                segment = self._segment(row, column)
                first_row, first_column = max(top, row * tall), max(left, column * wide)
                end_row, end_column = min(top + height, (row + 1) * tall), min(left + width, (column + 1) * wide)
                shown[first_row - top : end_row - top, first_column - left : end_column - left] = segment[
                    first_row - row * tall : end_row - row * tall,
                    first_column - column * wide : end_column - column * wide,
                ]
        return shown.transpose(2, 0, 1)

    def _decode_segment(self, row: int, column: int) -> np.ndarray:
        """uint8 [height, width, channels] of a tile or strip."""
        page = self._page
        index = row * math.ceil(self.width / self._segment_width) + column
        try:
            handle = page.parent.filehandle
            handle.seek(page.dataoffsets[index])
            data = handle.read(page.databytecounts[index])
            values, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
            if values is None:  # a tile that was left out of the file
                values = np.full(shape, page.nodata, page.dtype)
            pixels = values.reshape(values.shape[-3:])
        except Exception as error:  # decoders raise anything on foreign bytes
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreadableImage(f"is damaged in row {row * self._segment_height}: {reason}") from error
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)  # the high byte, as `decode` has it
        image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if self._mode == "L" else pixels), self._mode)
        return np.asarray(shown_image(image, self._channels)).reshape(image.height, image.width, self._channels)


def open_tiff_windows(path: Path, channels: int) -> TiffWindows | None:
    """None for what has to be decoded as a whole: no TIFF, another layout, or a compression that is not installed."""
    if importlib.util.find_spec("tifffile") is None:
        return None
    import tifffile

    with contextlib.suppress(Exception):  # foreign bytes: what is wrong with them the other reader tells
        page: Any = tifffile.TiffFile(path).pages[0]
        mode = _mode(page)
        if mode is not None and _segment_bytes(page) <= _LARGEST_SEGMENT_BYTES:
            return TiffWindows(page, path, mode, channels)
    return None


def _mode(page: Any) -> str | None:
    """Pillow's mode for the page's pixels; None where they are not shown as they stand there."""
    plain = page.bitspersample in (8, 16) and page.dtype in (np.uint8, np.uint16)
    upright = page.planarconfig == 1 and page.tags.valueof(274, default=1) == 1 and page.imagedepth == 1
    jpeg = page.photometric == _YCBCR and page.compression == 7  # decoded to RGB
    if not plain or not upright or not (jpeg or page.photometric in (_GREY, _RGB)) or not _has_decoder(page):
        return None
    extra = tuple(int(one) for one in page.extrasamples)
    return _MODES.get((page.photometric == _GREY, int(page.samplesperpixel), extra))


def _has_decoder(page: Any) -> bool:
    import tifffile

    with contextlib.suppress(KeyError):
        return page.compression == 1 or tifffile.TIFF.DECOMPRESSORS[page.compression] is not None
    return False


def _segment_bytes(page: Any) -> int:
    return math.prod(page.chunks) * int(page.bitspersample) // 8
