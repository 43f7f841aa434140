"""The bytes of one image: decoded to the shape that is asked for, or unreadable with a reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from disttrain.data.decode import UnreadableImage, decode_image

from ..helpers import png, random_image

SHAPE = (3, 20, 20)


def test_an_image_is_decoded_channels_first() -> None:
    image = random_image(3)
    assert np.array_equal(decode_image(png(image), SHAPE), image.transpose(2, 0, 1))
    assert decode_image(png(image), SHAPE).flags.c_contiguous


def test_grey_images_are_decoded_for_one_channel_and_spread_for_three() -> None:
    grey = random_image(3)[:, :, 0]
    assert np.array_equal(decode_image(png(grey), (1, 20, 20))[0], grey)
    assert np.array_equal(decode_image(png(grey), SHAPE), np.stack([grey] * 3))


def test_alpha_and_palettes_become_rgb() -> None:
    with_alpha = np.dstack([random_image(1), np.full((20, 20), 255, np.uint8)])
    assert np.array_equal(decode_image(png(with_alpha), SHAPE), random_image(1).transpose(2, 0, 1))
    four = Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20) % 4, "P")
    four.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    buffer = io.BytesIO()
    four.save(buffer, "PNG")
    decoded = decode_image(buffer.getvalue(), SHAPE)
    assert decoded[:, 0, :4].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]


def test_another_size_is_refused_or_resized() -> None:
    data = png(random_image(0, height=10, width=30))
    with pytest.raises(UnreadableImage, match="is 30x10 pixels, expected 20x20"):
        decode_image(data, SHAPE)
    resized = decode_image(data, SHAPE, resize=True)
    expected = Image.fromarray(random_image(0, 10, 30)).resize((20, 20), Image.Resampling.BILINEAR)
    assert np.array_equal(resized, np.asarray(expected).transpose(2, 0, 1))


def bomb() -> bytes:
    """A PNG of 33 bytes that claims 60,000 x 60,000 pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def broken_images() -> dict[str, bytes]:
    good = png(random_image(0))
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    return {
        "empty": b"",
        "text": b"not an image at all",
        "cut short": good[: len(good) // 2],
        "header only": good[:30],
        "flipped byte": bytes(flipped),
        "bomb": bomb(),
        "wrong size": png(random_image(0, 21, 20)),
    }


@pytest.mark.parametrize("kind", broken_images())
def test_a_broken_image_is_unreadable_with_a_reason_in_one_line(kind: str) -> None:
    with pytest.raises(UnreadableImage) as error:
        decode_image(broken_images()[kind], SHAPE)
    reason = str(error.value)
    assert reason
    assert "\n" not in reason
    assert "BytesIO" not in reason
