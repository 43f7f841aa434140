"""Boxes as JSON, CSV or GeoJSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from disttrain.data.georeference import Georeference
from disttrain.errors import DataError
from disttrain.inference.merge_boxes import Box

_COLUMNS = ("scene", "x", "y", "width", "height", "score")
_LONGITUDE_LATITUDE = 4326


@dataclass(frozen=True)
class SceneBoxes:
    """What was found in one scene."""

    scene: str
    """Its path as it was given."""
    boxes: Sequence[Box]
    georeference: Georeference | None = None

    def rows(self) -> list[dict[str, Any]]:
        """`scene`, `x`, `y`, `width`, `height` in pixels of the scene, and `score`."""
        return [{"scene": self.scene, **asdict(box)} for box in self.boxes]


def render_boxes(found: Sequence[SceneBoxes], suffix: str) -> str:
    """The text of a .json, .csv or .geojson file. Raises DataError for scenes that one GeoJSON file cannot hold."""
    if suffix == ".geojson":
        return _geojson(found)
    rows = [row for one in found for row in one.rows()]
    if suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
    return _one_a_line(rows, "[", "]")


def _geojson(found: Sequence[SceneBoxes]) -> str:
    """A polygon for each box: in map coordinates where the scene has them, else in pixels, y downwards.

    RFC 7946 knows longitude and latitude only; for other systems the older member `crs` has their name.
    """
    systems = {one.georeference.epsg if one.georeference else "pixels" for one in found}
    if len(systems) > 1:
        described = ", ".join(sorted(_describe(system) for system in systems))
        raise DataError(
            f"the scenes have several coordinate systems ({described}), and a GeoJSON file has one: give the scenes of "
            "each by themselves, or write .json or .csv, which have pixels."
        )
    system = systems.pop()
    named = isinstance(system, int) and system != _LONGITUDE_LATITUDE
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{system}"}}
    start = '{"type": "FeatureCollection", ' + (f'"crs": {json.dumps(crs)}, ' if named else "") + '"features": ['
    return _one_a_line([_feature(one, box) for one in found for box in one.boxes], start, "]}")


def _describe(system: int | str | None) -> str:
    return f"EPSG:{system}" if isinstance(system, int) else system or "one without a code"


def _feature(found: SceneBoxes, box: Box) -> dict[str, Any]:
    right, bottom = box.x + box.width, box.y + box.height
    corners = [(box.x, box.y), (box.x, bottom), (right, bottom), (right, box.y), (box.x, box.y)]
    if found.georeference:
        corners = [found.georeference.map_point(*corner) for corner in corners]  # type: ignore[misc]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        "properties": {"scene": found.scene, **asdict(box)},
    }


def _one_a_line(rows: Sequence[dict[str, Any]], start: str, end: str) -> str:
    return start + ",".join("\n " + json.dumps(row) for row in rows) + ("\n" if rows else "") + end + "\n"
