"""The bytes of one image -> the pixels that a viewer shows, as uint8. `docs/data.md` has the rule for every mode.

The only place that decodes images: training, evaluation, prediction and `data info` all come here.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from disttrain.data.file_kind import kind_of_bytes
from disttrain.errors import DataError

_FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "TGA", "PCX", "SGI", "ICO", "QOI",
)  # fmt: skip
"""What is opened, by Pillow's names. Left out is what starts other programs (EPS), what Pillow reads in part only, and
what is no picture."""

_ORIENTATION = 0x0112  # EXIF and TIFF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED_BY_PILLOW = ("TIFF",)
_TGA_DESCRIPTOR = 17
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF


class UnreadableImage(DataError):
    """The bytes of one image cannot be read, or give no pixels; the message is the reason alone, in one line."""


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """The suffixes of files that are taken for images, sorted, lower case: all that Pillow has for
    the formats that are opened."""
    known = (*_formats(), "MPO")  # several JPEGs in one file, which the JPEG reader opens
    return tuple(sorted(end for end, name in Image.registered_extensions().items() if name in known))


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # a build of Pillow may lack some


def decode_image(
    data: bytes, shape: tuple[int, int, int], resize: bool = False, largest_pixels: int | None = None
) -> np.ndarray:
    """Image bytes -> uint8 of `shape` [channels, height, width]: RGB for 3 channels, grey for 1.

    Raises UnreadableImage, whatever is wrong with the bytes; also for another size than `shape`, unless `resize`
    (bilinear), and before anything is decoded for more than `largest_pixels`.
    """
    channels, height, width = shape
    with _refusing_damage(data):
        with _open(data) as image:
            if not resize and sorted(image.size) != sorted((width, height)):
                raise _wrong_size(image, width, height)  # before pixels are decoded: there may be millions
            _check_pixels(image, largest_pixels)
            image.load()
            shown = shown_image(_without_unused_channel(image, data), channels)
        if shown.size != (width, height):
            if not resize:
                raise _wrong_size(shown, width, height)
            shown = shown.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(shown)
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))


def decode_whole(data: bytes, channels: int, largest_pixels: int) -> np.ndarray:
    """Image bytes of any size -> uint8 [channels, height, width]: RGB for 3 channels, grey for 1.

    Raises UnreadableImage; before anything is decoded for more than `largest_pixels`.
    """
    with _refusing_damage(data), _open_large(data) as image:
        _check_pixels(image, largest_pixels)
        image.load()
        pixels = np.asarray(shown_image(_without_unused_channel(image, data), channels))
    return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)


def tiff_tags(data: bytes) -> dict[int, Any]:
    """The tags of a TIFF's first page by number; none of another file."""
    try:
        with _open_large(data) as image:
            return dict(getattr(image, "tag_v2", {})) if image.format == "TIFF" else {}
    except Exception:  # decoders raise anything on foreign bytes
        return {}


@contextlib.contextmanager
def _refusing_damage(data: bytes) -> Iterator[None]:
    """Within it whatever a decoder raises on foreign bytes becomes an UnreadableImage."""
    try:
        yield
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(_reason(error, data)) from error


def _open_large(data: bytes) -> Image.Image:
    """An image for whose size the caller has a limit of its own: Pillow warns of none below its hard one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return _open(data)


def image_size(data: bytes) -> tuple[int, int]:
    """(height, width) of an image as a viewer shows it. Raises UnreadableImage."""
    try:
        with _open(data) as image:
            image.load()  # some formats say only then how the picture is turned
            turned = _orientation(image) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # decoders raise anything on foreign bytes
        raise UnreadableImage(_reason(error, data)) from error


def shown_image(image: Image.Image, channels: int) -> Image.Image:
    """A loaded image of any mode as a viewer shows it: upright, in mode RGB for 3 channels, L for 1.

    Raises UnreadableImage for a mode whose values have no agreed black and white, ValueError for other `channels`.
    """
    if channels not in (1, 3):
        raise ValueError(f"images are decoded to 3 channels (RGB) or 1 (grey), not {channels}")
    method = _UPRIGHT.get(_orientation(image))
    flat = _without_alpha(_to_eight_bits(image))
    target = "RGB" if channels == 3 else "L"
    if flat.mode not in (target, "L", "1"):
        flat = flat.convert("RGB")  # some modes turn grey by way of RGB only
    if flat.mode != target:
        flat = flat.convert(target)
    return flat if method is None else flat.transpose(method)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise UnreadableImage("the file is empty")
    return Image.open(io.BytesIO(data), formats=_formats())


def _without_unused_channel(image: Image.Image, data: bytes) -> Image.Image:
    """A TGA of 32 bits a pixel says how many of them are alpha; Pillow takes 8 where it says none."""
    unused = image.format == "TGA" and image.mode == "RGBA" and not data[_TGA_DESCRIPTOR] & 0x0F
    return image.convert("RGB") if unused else image


def _check_pixels(image: Image.Image, largest: int | None) -> None:
    if largest is not None and image.width * image.height > largest:
        raise UnreadableImage(f"is {image.width}x{image.height} pixels, more than {largest:,}")


def _wrong_size(image: Image.Image, width: int, height: int) -> UnreadableImage:
    return UnreadableImage(f"is {image.width}x{image.height} pixels, expected {width}x{height}")


def _orientation(image: Image.Image) -> int:
    """How the stored pixels are turned, 1 to 8; 1, upright, where the tag is damaged: viewers leave it out too."""
    if image.format in _TURNED_BY_PILLOW:
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # foreign bytes again
        return 1


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Images of more than 8 bits a channel, or of none that is agreed on; others as they are."""
    if image.mode == "F":
        raise UnreadableImage("its pixels are floats (mode F), which have no agreed black and white: save 8 or 16 bits")
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # there Pillow has 16 bits in mode I
        raise UnreadableImage("its pixels are 32-bit integers (mode I), which have no agreed white: save 8 or 16 bits")
    if image.mode != "I" and not image.mode.startswith("I;"):
        return image
    # Not by numpy's view of the image: some versions of Pillow give the other byte order wrongly.
    values = np.asarray(image if image.mode == "I" else image.convert("I")).astype(np.int64)
    bits, white_is_zero = 16, False
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]  # of TiffImageFile
        bits, white_is_zero = int(tags.get(_BITS_PER_SAMPLE, (16,))[0]), tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    eight = (values >> (bits - 8)).clip(0, 255).astype(np.uint8)  # the high byte, as Pillow takes it of colours
    clear = image.info.get("transparency")
    if white_is_zero:
        eight = 255 - eight
    if isinstance(clear, int):
        eight[values == clear] = 255
    return Image.fromarray(eight)


def _without_alpha(image: Image.Image) -> Image.Image:
    """What is transparent shows white, the page of a browser."""
    if not image.has_transparency_data:
        return image
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:
        raise UnreadableImage("has 16 bits a channel and a transparent colour, of which Pillow keeps 8: save 8 bits")
    rgba = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _reason(error: Exception, data: bytes) -> str:
    """Why an image could not be read, in one line (Pillow's mention of in-memory objects says nothing to a user)."""
    if isinstance(error, UnreadableImage):
        return str(error)
    text = " ".join(str(error).split())
    if "cannot identify image file" not in text:
        return text or type(error).__name__
    kind = kind_of_bytes(data)
    return f"not an image but {kind}" if kind else "not an image"
