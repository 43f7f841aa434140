"""Pixels are what a viewer shows: every mode of Pillow, every orientation, every depth; and what has no such meaning is
refused by name. The expectations are written down, not computed by the code that is tested."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import disttrain
from disttrain.config.sections import ModelConfig
from disttrain.data.base import ImageArrays
from disttrain.data.decode import UnreadableImage, decode_image, image_size, shown_image
from disttrain.data.statistics import as_image
from disttrain.errors import DataError
from disttrain.models.build import build_model

from .pixel_cases import CASES, Case, encoded

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
ORIENTATION = 0x0112
# The stored picture for each orientation tag, made from the upright one by numpy (EXIF 2.3, 4.6.4 A).
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def first_pixel(image: Image.Image) -> tuple[tuple[int, ...], int]:
    """(RGB, grey) of the first pixel as a network gets it."""
    colour, grey = np.asarray(shown_image(image, 3))[0, 0], np.asarray(shown_image(image, 1))[0, 0]
    return tuple(colour.tolist()), int(grey)


# For each mode: a pixel value, and the (RGB, grey) that it shows; None: refused by name.
MODES: dict[str, list[tuple[Any, tuple[tuple[int, ...], int] | None]]] = {
    "1": [(0, (BLACK, 0)), (1, (WHITE, 255))],
    "L": [(0, (BLACK, 0)), (77, ((77, 77, 77), 77)), (255, (WHITE, 255))],
    "LA": [((77, 255), ((77, 77, 77), 77)), ((77, 0), (WHITE, 255)), ((0, 128), ((127, 127, 127), 127))],
    "La": [((77, 255), ((77, 77, 77), 77)), ((0, 0), (WHITE, 255))],
    "P": [(0, (BLACK, 0))],  # more of them below, from files
    "PA": [((0, 255), (BLACK, 0)), ((0, 0), (WHITE, 255))],
    "RGB": [(RED, (RED, 76)), ((1, 2, 3), ((1, 2, 3), 2))],
    "RGBX": [((*RED, 0), (RED, 76)), ((1, 2, 3, 9), ((1, 2, 3), 2))],
    "RGBA": [((*RED, 255), (RED, 76)), ((*RED, 0), (WHITE, 255)), ((0, 0, 0, 128), ((127, 127, 127), 127))],
    "RGBa": [((*RED, 255), (RED, 76)), ((0, 0, 0, 0), (WHITE, 255))],
    "CMYK": [((0, 0, 0, 0), (WHITE, 255)), ((0, 255, 255, 0), (RED, 76)), ((0, 0, 0, 255), (BLACK, 0))],
    "YCbCr": [((255, 128, 128), (WHITE, 255)), ((0, 128, 128), (BLACK, 0)), ((77, 128, 128), ((77, 77, 77), 77))],
    "LAB": [((255, 128, 128), (WHITE, 255)), ((0, 128, 128), (BLACK, 0)), ((128, 128, 128), ((119, 119, 119), 119))],
    "HSV": [((0, 255, 255), (RED, 76)), ((0, 0, 255), (WHITE, 255)), ((0, 0, 0), (BLACK, 0))],
    "I": [(5, None)],
    "F": [(0.5, None)],
    "I;16": [(0, (BLACK, 0)), (65535, (WHITE, 255)), (0x4D12, ((77, 77, 77), 77))],
    "I;16L": [(0, (BLACK, 0)), (65535, (WHITE, 255)), (0x4D12, ((77, 77, 77), 77))],
    "I;16B": [(0, (BLACK, 0)), (65535, (WHITE, 255)), (0x4D12, ((77, 77, 77), 77))],
    "I;16N": [(0, (BLACK, 0)), (65535, (WHITE, 255)), (0x4D12, ((77, 77, 77), 77))],
}


def test_the_table_has_every_mode_of_pillow() -> None:
    assert set(Image.MODES) <= set(MODES)
    documented = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert [mode for mode in MODES if f"`{mode}`" not in documented] == []


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode in Image.MODES])
def test_every_mode_of_pillow_is_shown_or_refused_by_name(mode: str) -> None:
    for value, expected in MODES[mode]:
        image = Image.new(mode, (2, 2), value)
        if expected is None:
            for channels in (1, 3):
                with pytest.raises(UnreadableImage, match=rf"\(mode {mode}\).*save 8 or 16 bits"):
                    shown_image(image, channels)
        else:
            colour, grey = first_pixel(image)
            difference = np.abs(np.array([*colour, grey]) - [*expected[0], expected[1]]).max()
            assert difference <= (1 if mode == "LAB" else 0), (value, colour, grey)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match="3 channels"):
        shown_image(Image.new("RGB", (2, 2)), channels)


def decoded(data: bytes, height: int = 2, width: int = 2, channels: int = 3) -> np.ndarray:
    return decode_image(data, (channels, height, width)).transpose(1, 2, 0)


EXACT = {"WEBP": {"lossless": True}}
LOSSY: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "MPO": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("form", ["JPEG", "MPO", "PNG", "TIFF", "TIFF lzw", "WEBP", "AVIF"])
def test_a_stored_orientation_is_obeyed(form: str) -> None:
    name, _, compression = form.partition(" ")
    if name not in Image.SAVE and not Image.init() and name not in Image.SAVE:
        pytest.skip(f"this Pillow has no {name}")
    upright = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)
    options = {**EXACT.get(name, {}), **LOSSY.get(name, {}), **({"compression": "tiff_lzw"} if compression else {})}
    for tag, turn in STORED.items():
        exif = Image.Exif()
        exif[ORIENTATION] = tag
        data = encoded(Image.fromarray(np.ascontiguousarray(turn(upright))), name, exif=exif, **options)
        assert image_size(data) == (5, 7), tag
        worst = np.abs(decoded(data, 5, 7).astype(int) - upright).max()
        assert worst <= (4 if name in LOSSY else 0), tag
        grey = decode_image(data, (1, 5, 7))[0]
        assert np.abs(grey.astype(int) - np.asarray(Image.fromarray(upright).convert("L"))).max() <= 4


@pytest.mark.parametrize("tag", [0, 9, 255])
def test_an_orientation_that_there_is_not_is_upright(tag: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    image = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    assert np.array_equal(decoded(encoded(image, "PNG", exif=exif), 2, 3), np.asarray(image))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("block", [b"", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_a_damaged_exif_block_leaves_the_picture_as_it_is(block: bytes) -> None:
    image = Image.new("RGB", (8, 8), (200, 10, 10))
    for form in ("JPEG", "PNG"):
        assert abs(int(decoded(encoded(image, form, exif=b"Exif\0\0" + block), 8, 8)[0, 0, 0]) - 200) < 3


def test_a_turned_photo_is_resized_as_it_is_shown() -> None:
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:, :8] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(Image.fromarray(np.ascontiguousarray(STORED[6](upright))), "PNG", exif=exif)
    small = decode_image(data, (3, 4, 8), resize=True)
    assert small[:, :, :3].min() == 255
    assert small[:, :, -3:].max() == 0
    with pytest.raises(UnreadableImage, match="is 16x8 pixels, expected 8x16"):
        decode_image(data, (3, 16, 8))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_shows_what_a_viewer_shows_or_is_refused_by_name(case: Case) -> None:
    if isinstance(case.shows, str):
        with pytest.raises(UnreadableImage, match=case.shows):
            decoded(case.data)
        return
    for channels in (1, 3):
        pixels = decoded(case.data, channels=channels)
        assert (pixels == pixels[:, :, :1]).all()
        assert (int(pixels[0, 0, 0]), int(pixels[0, 1, 0])) == case.shows


def test_colours_of_a_cmyk_jpeg_are_not_inverted() -> None:
    red = encoded(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", quality=100)
    assert np.abs(decoded(red, 16, 16)[8, 8].astype(int) - RED).max() < 6


CHANNELS_LAST = [(20, 20, 3), (28, 28, 1), (64, 48, 3), (48, 64, 4), (32, 32, 2), (64, 60, 12), (4, 4, 3)]
CHANNELS_FIRST = [(3, 20, 20), (1, 28, 28), (3, 64, 2), (4, 5, 5), (12, 64, 60), (200, 9, 9), (3, 2, 2), (1, 1, 1)]


@pytest.mark.parametrize(("shape", "kind"), [*itertools.product(CHANNELS_LAST, ["numpy", "torch"])])
def test_images_with_the_channels_last_are_refused(shape: tuple[int, int, int], kind: str) -> None:
    image: Any = np.zeros(shape, np.uint8) if kind == "numpy" else torch.zeros(shape, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"are \[height, width, channels\].*Give image\.transpose\(2, 0, 1\)"):
        as_image(image)


@pytest.mark.parametrize("shape", CHANNELS_FIRST)
def test_images_with_the_channels_first_are_images(shape: tuple[int, int, int]) -> None:
    assert as_image(np.zeros(shape, np.uint8)) is not None


@pytest.mark.parametrize("name", ["planesnet_cnn", "mnist_cnn"])
def test_a_convolution_takes_no_rows_for_channels(name: str) -> None:
    with pytest.raises(DataError, match=r"\[28, 28, 3\] are \[height, width, channels\]"):
        build_model(ModelConfig(name=name), (28, 28, 3), 2)
    assert build_model(ModelConfig(name=name), (3, 28, 28), 2)(torch.zeros(1, 3, 28, 28)).shape == (1, 2)


class Red(torch.utils.data.Dataset[tuple[np.ndarray, int]]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.full((20, 20, 3), (200, 0, 0), np.uint8), index % 2


def test_fit_refuses_images_with_the_channels_last(tmp_path: Any) -> None:
    with pytest.raises(DataError, match=r"\[20, 20, 3\] are \[height, width, channels\]"):
        disttrain.fit(nn.Linear(3, 2), Red(), run_dir=tmp_path / "run", quiet=True)


def channels_last_arrays() -> ImageArrays:
    return ImageArrays(np.zeros((8, 20, 20, 3), np.uint8), np.arange(8) % 2, ("a", "b"))


def test_arrays_with_the_channels_last_are_refused() -> None:
    from disttrain.config import build_config
    from disttrain.data.open import open_dataset

    config = build_config({"data": {"name": f"{__name__}:channels_last_arrays"}})
    with pytest.raises(DataError, match=r"\[20, 20, 3\] are \[height, width, channels\]"):
        open_dataset(config.data)
