"""Merging, and the three forms of the result."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from disttrain.data.georeference import Georeference
from disttrain.errors import DataError
from disttrain.inference.box_files import SceneBoxes, render_boxes
from disttrain.inference.merge_boxes import Box, merge_hits
from disttrain.inference.window_search import Hits

BOXES = [Box(10, 4, 20, 20, 0.9), Box(40, 8, 20, 20, 0.75)]
MAP = Georeference((3.0, 0.0, 500_000.0), (0.0, -3.0, 4_000_000.0), 32610)


def hits_of(*rows: tuple[int, int, float]) -> Hits:
    top, left, logit = zip(*rows, strict=True)
    return Hits(np.array(top), np.array(left), np.array(logit, np.float32))


def test_windows_around_one_object_become_its_best_and_neighbours_stay_two() -> None:
    rows = [(4, 10, 1.0), (4, 12, 2.0), (6, 12, 1.5), (4, 26, 3.0), (50, 0, 0.0)]
    merged = merge_hits(hits_of(*rows), 20, 20)
    assert [(box.y, box.x) for box in merged] == [(4, 12), (4, 26), (50, 0)]
    assert [box.score for box in merged] == [0.8808, 0.9526, 0.5]
    assert merge_hits(hits_of(*reversed(rows)), 20, 20) == merged


def test_equal_scores_are_merged_the_same_in_any_order() -> None:
    rows = [(4, 10, 1.0), (4, 16, 1.0), (4, 22, 1.0), (4, 28, 1.0)]
    assert merge_hits(hits_of(*rows), 20, 20) == merge_hits(hits_of(*rows[::-1]), 20, 20)


def test_nothing_found_is_no_box() -> None:
    assert merge_hits(Hits.joined([]), 20, 20) == []
    assert json.loads(render_boxes([SceneBoxes("a.png", [])], ".json")) == []
    assert json.loads(render_boxes([SceneBoxes("a.png", [])], ".geojson"))["features"] == []


def test_json_and_csv_have_the_same_rows_in_pixels() -> None:
    found = [SceneBoxes("a.png", BOXES), SceneBoxes("b.tif", BOXES[:1], MAP)]
    rows = json.loads(render_boxes(found, ".json"))
    assert rows[0] == {"scene": "a.png", "x": 10, "y": 4, "width": 20, "height": 20, "score": 0.9}
    assert [row["scene"] for row in rows] == ["a.png", "a.png", "b.tif"]
    read = list(csv.DictReader(io.StringIO(render_boxes(found, ".csv"))))
    assert read == [{key: str(value) for key, value in row.items()} for row in rows]


def test_geojson_is_in_map_coordinates_where_the_scene_has_them() -> None:
    in_map = json.loads(render_boxes([SceneBoxes("a.tif", BOXES[:1], MAP)], ".geojson"))
    assert in_map["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32610"
    corners = [[500_030, 3_999_988], [500_030, 3_999_928], [500_090, 3_999_928], [500_090, 3_999_988]]
    assert in_map["features"][0]["geometry"]["coordinates"] == [[*corners, corners[0]]]
    assert in_map["features"][0]["properties"]["x"] == 10
    in_pixels = json.loads(render_boxes([SceneBoxes("a.png", BOXES[:1])], ".geojson"))
    assert "crs" not in in_pixels
    assert in_pixels["features"][0]["geometry"]["coordinates"][0][:2] == [[10, 4], [10, 24]]


def test_scenes_of_several_coordinate_systems_do_not_go_into_one_geojson() -> None:
    with pytest.raises(DataError, match="EPSG:32610, pixels"):
        render_boxes([SceneBoxes("a.tif", BOXES, MAP), SceneBoxes("b.png", BOXES)], ".geojson")
