"""Scenes: by window as by whole, and refused where they cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from disttrain.data.decode import UnreadableImage
from disttrain.data.scene import LARGEST_PIXELS, WholeScene, open_scene
from disttrain.data.tiff_windows import TiffWindows

from ..helpers import random_image

HEIGHT, WIDTH = 137, 211
PICTURE = random_image(0, HEIGHT, WIDTH)
WIDE = np.random.RandomState(1).randint(0, 1 << 16, (HEIGHT, WIDTH, 3)).astype(np.uint16)
ALPHA = np.dstack([PICTURE, random_image(2, HEIGHT, WIDTH)[:, :, 0]])
TIFFS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "tiles": (PICTURE, {"tile": (64, 48), "photometric": "rgb"}),
    "strips, deflate": (PICTURE, {"rowsperstrip": 10, "photometric": "rgb", "compression": "zlib", "predictor": True}),
    "transparent": (ALPHA, {"tile": (64, 64), "photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "a fourth band": (ALPHA, {"tile": (64, 64), "photometric": "rgb", "extrasamples": ["unspecified"]}),
    "16 bits, grey": (WIDE[:, :, 0], {"tile": (32, 32), "photometric": "minisblack"}),
    "16 bits": (WIDE, {"tile": (32, 32), "photometric": "rgb", "byteorder": ">"}),
    "grey, transparent": (ALPHA[:, :, 2:], {"tile": (32, 32), "extrasamples": ["unassalpha"]}),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", TIFFS)
def test_a_part_of_a_tiff_has_the_pixels_that_the_whole_picture_has(kind: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, TIFFS[kind][0], **TIFFS[kind][1])
    by_window, whole = open_scene(path, channels), WholeScene(path, channels)
    assert isinstance(by_window, TiffWindows)
    assert (by_window.height, by_window.width) == (whole.height, whole.width) == (HEIGHT, WIDTH)
    for part in ((0, 0, HEIGHT, WIDTH), (33, 50, 70, 101), (136, 210, 1, 1)):
        assert np.array_equal(by_window.read(*part), whole.read(*part))
    assert by_window.read(1, 2, 3, 4).shape == (channels, 3, 4)


def test_what_cannot_be_read_by_window_is_read_as_a_whole(tmp_path: Path) -> None:
    picture = Image.fromarray(PICTURE)
    picture.convert("P").save(tmp_path / "palette.tif")
    picture.save(tmp_path / "scene.png")
    for name in ("palette.tif", "scene.png"):
        scene = open_scene(tmp_path / name, 3)
        assert isinstance(scene, WholeScene)
        assert scene.read(7, 9, 20, 30).shape == (3, 20, 30)


def test_a_tiff_of_any_size_is_read_where_a_png_of_that_size_is_refused(tmp_path: Path) -> None:
    side = int(LARGEST_PIXELS**0.5) + 100
    empty = np.zeros((side, side), np.uint8)
    tifffile.imwrite(tmp_path / "scene.tif", empty, tile=(512, 512), compression="zlib")
    scene = open_scene(tmp_path / "scene.tif", 1)
    assert scene.read(side - 10, side - 20, 10, 20).sum() == 0
    Image.new("1", (side, side)).save(tmp_path / "scene.png")
    with pytest.raises(UnreadableImage, match=r"more than 100,000,000\. Scenes of that size are read by window, from"):
        open_scene(tmp_path / "scene.png", 3)


@pytest.mark.parametrize("content", [b"", b"no picture", b"II*\0\x08\0\0\0\xff\xff"])
def test_what_is_no_picture_is_refused_with_the_reason(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "scene.tif").write_bytes(content)
    with pytest.raises(UnreadableImage):
        open_scene(tmp_path / "scene.tif", 3)


def test_a_tiff_that_is_cut_off_is_unreadable_where_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, PICTURE, rowsperstrip=10, photometric="rgb", compression="zlib")
    content = path.read_bytes()
    path.write_bytes(content[:-20_000])
    scene = open_scene(path, 3)
    assert np.array_equal(scene.read(0, 0, 10, WIDTH), PICTURE[:10].transpose(2, 0, 1))
    with pytest.raises(UnreadableImage, match="is damaged in row 130"):
        scene.read(130, 0, 7, WIDTH)


def test_a_geotiff_says_where_its_pixels_lie(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    keys = (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32610)
    tags = [
        (33550, "d", 3, (3.0, 3.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 4_000_000.0, 0.0), True),
        (34735, "H", len(keys), keys, True),
    ]
    tifffile.imwrite(path, PICTURE, photometric="rgb", extratags=tags)
    for scene in (open_scene(path, 3), WholeScene(path, 3)):
        assert scene.georeference is not None
        assert scene.georeference.epsg == 32610
        assert scene.georeference.map_point(10, 20) == (500_030.0, 3_999_940.0)
