"""Image files of every depth and mode, many written by hand: Pillow does not write all that it reads."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_chunks(bits: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A 2x2 PNG written by hand: Pillow does not write every depth that it reads."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 2, 2, bits, colour, 0, 0, 0)), *chunks, (b"IDAT", zlib.compress(rows))]
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in [*parts, (b"IEND", b"")]:
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


def tiff(values: np.ndarray, bits: int, photometric: int, kind: int = 1, order: str = "<") -> bytes:
    """A grey TIFF of one strip written by hand; `values` as bytes [height, width * bits / 8]."""
    height, width = 2, 2
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height),
            (279, values.nbytes), (339, kind)]  # fmt: skip
    directory = struct.pack(order + "H", len(tags))
    directory += b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags) + b"\0" * 4
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(order + "I", 8 + values.nbytes) + values.tobytes() + directory


def grey16(low: int, high: int, order: str = "<") -> np.ndarray:
    return np.array([[low, high], [high, low]], dtype=f"{order}u2")


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    shows: tuple[int, int] | str
    """Grey of the first two pixels, or what the refusal says."""


def palette(transparent: bytes | int | None) -> bytes:
    image = Image.new("P", (2, 2))
    image.putpalette([10, 10, 10, 200, 200, 200])
    image.putdata([0, 1, 1, 0])
    return encoded(image, "PNG", **({} if transparent is None else {"transparency": transparent}))


def rgb_with_clear_colour() -> bytes:
    image = Image.fromarray(np.array([[[9, 9, 9], [90, 90, 90]]] * 2, np.uint8))
    return encoded(image, "PNG", transparency=(9, 9, 9))


def gif(transparent: bool) -> bytes:
    image = Image.new("P", (2, 2))
    image.putpalette([10, 10, 10, 200, 200, 200])
    image.putdata([0, 1, 1, 0])
    return encoded(image, "GIF", **({"transparency": 0} if transparent else {}))


def of_two_frames(form: str) -> bytes:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ((40, 40, 40), (200, 200, 200))]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:])


def tga_without_alpha() -> bytes:
    data = bytearray(encoded(Image.new("RGBA", (2, 2), (77, 77, 77, 0)), "TGA"))
    data[17] &= 0xF0  # the number of alpha bits
    return bytes(data)


def bmp_32_bits() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 32, 0, 16, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 70, 0, 0, 54) + header + bytes([77, 77, 77, 0]) * 4


def array(values: np.ndarray, form: str) -> bytes:
    return encoded(Image.fromarray(values), form)


GREY8 = np.array([[0, 77], [77, 0]], np.uint8)
TWELVE = np.array([[0x00, 0x0F, 0xFF], [0xFF, 0xF0, 0x00]], np.uint8)  # 12 bits: 0, 4095 / 4095, 0
CASES = (
    Case("png grey 1 bit", png_chunks(1, 0, b"\0\x40\0\x80"), (0, 255)),
    Case("png grey 2 bits", png_chunks(2, 0, b"\0\x30\0\xc0"), (0, 255)),
    Case("png grey 4 bits", png_chunks(4, 0, b"\0\x0f\0\xf0"), (0, 255)),
    Case("png grey 8 bits", array(GREY8, "PNG"), (0, 77)),
    Case("png grey 16 bits", array(grey16(0x0100, 0x4DFF), "PNG"), (1, 77)),
    Case("png grey 16 bits, white", array(grey16(0, 65535), "PNG"), (0, 255)),
    Case("png colour 16 bits", png_chunks(16, 2, (b"\0" + b"\x01\0" * 3 + b"\x4d\xff" * 3) * 2), (1, 77)),
    Case("png grey and alpha 16 bits", png_chunks(16, 4, (b"\0\x01\0\xff\xff" + b"\x4d\xff\0\0") * 2), (1, 255)),
    Case("png grey with a clear value", png_chunks(8, 0, b"\0\x05\x4d" * 2, (b"tRNS", b"\0\x05")), (255, 77)),
    Case("png grey 16 bits with a clear value",
         png_chunks(16, 0, b"\0\0\x05\x4d\0" * 2, (b"tRNS", b"\0\x05")), (255, 77)),
    Case("png colour with a clear colour", rgb_with_clear_colour(), (255, 90)),
    Case(
        "png colour 16 bits with a clear colour",
        png_chunks(16, 2, (b"\0" + b"\x01\0" * 3 + b"\x4d\xff" * 3) * 2, (b"tRNS", b"\x01\0" * 3)),
        "has 16 bits a channel and a transparent colour",
    ),
    Case("png palette", palette(None), (10, 200)),
    Case("png palette with a clear entry", palette(0), (255, 200)),
    Case("png palette with alpha bytes", palette(b"\x00\xff"), (255, 200)),
    Case("png palette half clear", palette(b"\xff\x80"), (10, 227)),
    Case("gif", gif(False), (10, 200)),
    Case("gif with a clear entry", gif(True), (255, 200)),
    Case("gif of two frames: the first", of_two_frames("GIF"), (40, 40)),
    Case("tiff of two pages: the first", of_two_frames("TIFF"), (40, 40)),
    Case("webp of two frames: the first", of_two_frames("WEBP"), (40, 40)),
    Case("png of two frames: the first", of_two_frames("PNG"), (40, 40)),
    Case("pgm 16 bits", b"P5 2 2 65535\n" + grey16(0x0100, 0x4DFF, ">").tobytes(), (1, 77)),
    Case("pgm up to 4095: white is 4095", b"P5 2 2 4095\n" + grey16(0, 4095, ">").tobytes(), (0, 255)),
    Case("pgm up to 100: white is 100", b"P5 2 2 100\n\x00\x64\x64\x00", (0, 255)),
    Case("pbm", b"P1 2 2\n1 0 0 1\n", (0, 255)),
    Case("ppm as text", b"P3 2 2 255\n" + b"0 0 0 77 77 77 " * 2, (0, 77)),
    Case("pfm: floats", b"Pf\n2 2\n-1.0\n" + np.ones(4, "<f4").tobytes(), r"floats \(mode F\)"),
    Case("tiff 8 bits", tiff(GREY8, 8, 1), (0, 77)),
    Case("tiff 8 bits, zero is white", tiff(GREY8, 8, 0), (255, 178)),
    Case("tiff 12 bits: white is 4095", tiff(TWELVE, 12, 1), (0, 255)),
    Case("tiff 16 bits", tiff(grey16(0x0100, 0x4DFF), 16, 1), (1, 77)),
    Case("tiff 16 bits, the other byte order", tiff(grey16(0x0100, 0x4DFF, ">"), 16, 1, order=">"), (1, 77)),
    Case("tiff 16 bits, zero is white", tiff(grey16(0, 0x4DFF), 16, 0), (255, 178)),
    Case("tiff 16 bits with a sign", tiff(grey16(0, 77), 16, 1, kind=2), r"32-bit integers \(mode I\)"),
    Case("tiff 32 bits", array(np.array([[0, 70_000]] * 2, np.int32), "TIFF"), r"32-bit integers \(mode I\)"),
    Case("tiff float", array(np.array([[0, 1]] * 2, np.float32), "TIFF"), r"floats \(mode F\)"),
    Case("tiff CMYK", encoded(Image.new("CMYK", (2, 2), (0, 0, 0, 178)), "TIFF"), (77, 77)),
    Case("tiff LAB", encoded(Image.new("LAB", (2, 2), (128, 128, 128)), "TIFF"), (119, 119)),
    Case("tiff with alpha", encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "TIFF"), (255, 255)),
    Case("webp with alpha",
         encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "WEBP", lossless=True, exact=True), (255, 255)),
    Case("bmp", array(GREY8, "BMP"), (0, 77)),
    Case("tga with alpha", encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "TGA"), (255, 255)),
    Case("tga of 32 bits without alpha", tga_without_alpha(), (77, 77)),
    Case("bmp of 32 bits without alpha", bmp_32_bits(), (77, 77)),
    Case("jpeg 2000 grey 16 bits", array(grey16(0x0100, 0x4DFF), "JPEG2000"), (1, 77)),
    Case("sgi with alpha", encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "SGI"), (255, 255)),
    Case("jpeg grey", encoded(Image.new("L", (2, 2), 77), "JPEG", quality=100), (77, 77)),
)  # fmt: skip
