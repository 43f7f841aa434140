"""GeoTIFF tags."""

from __future__ import annotations

from typing import Any

import pytest

from disttrain.data.georeference import Georeference

SCALE, TIES, MATRIX, KEYS = 33550, 33922, 34264, 34735
NORTH_UP = {SCALE: (2.0, 4.0, 0.0), TIES: (1.0, 1.0, 0.0, 100.0, 200.0, 0.0)}


def test_a_scale_and_a_tie_point_place_every_pixel() -> None:
    found = Georeference.of_tags(NORTH_UP, "a.tif")
    assert found is not None
    assert found.epsg is None
    assert found.map_point(1, 1) == (100.0, 200.0)
    assert found.map_point(3, 2) == (104.0, 196.0)


def test_a_matrix_may_turn_the_picture() -> None:
    matrix = (0.0, 2.0, 0.0, 10.0, -2.0, 0.0, 0.0, 20.0, *([0.0] * 7), 1.0)
    found = Georeference.of_tags({MATRIX: matrix}, "a.tif")
    assert found is not None
    assert found.map_point(1, 3) == (16.0, 18.0)


def test_tags_that_speak_of_the_centres_of_pixels_are_half_a_pixel_off_their_corners() -> None:
    found = Georeference.of_tags({**NORTH_UP, KEYS: (1, 1, 0, 2, 1025, 0, 1, 2, 2048, 0, 1, 4326)}, "a.tif")
    assert found is not None
    assert found.epsg == 4326
    assert found.map_point(1.5, 1.5) == (100.0, 200.0)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {TIES: (0.0, 0.0, 0.0, 1.0, 1.0, 0.0) * 4},
        {SCALE: ("x", 1.0), TIES: NORTH_UP[TIES]},
        {MATRIX: (1.0, 2.0)},
    ],
)
def test_without_whole_tags_there_are_pixels_only(tags: dict[int, Any]) -> None:
    assert Georeference.of_tags(tags, "a.tif") is None
