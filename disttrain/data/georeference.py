"""Where on the map a GeoTIFF's pixels lie (OGC 19-008r4, GeoTIFF 1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from disttrain.log import log

_PIXEL_SCALE, _TIE_POINTS, _TRANSFORMATION, _KEYS = 33550, 33922, 34264, 34735
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072
_POINT, _USER_DEFINED = 2, 32767


@dataclass(frozen=True)
class Georeference:
    """From pixels to map coordinates; (0, 0) is the upper left corner of the upper left pixel."""

    x: tuple[float, float, float]
    """map x = x[0] * column + x[1] * row + x[2]"""
    y: tuple[float, float, float]
    epsg: int | None = None
    """Code of the coordinate system; None where the file has none, or one of its own."""

    def map_point(self, column: float, row: float) -> tuple[float, float]:
        """Map x and y of a place in pixels."""
        return self.x[0] * column + self.x[1] * row + self.x[2], self.y[0] * column + self.y[1] * row + self.y[2]

    @classmethod
    def of_tags(cls, tags: Mapping[int, Any], name: str) -> Georeference | None:
        """Of a TIFF's tags; None where they place no pixel on a map. `name` is for the warning about damaged ones."""
        try:
            return cls._read(tags, name)
        except (TypeError, ValueError, IndexError, KeyError) as error:
            log.warning("%s: its GeoTIFF tags are damaged (%s), and boxes stay in pixels", name, error)
            return None

    @classmethod
    def _read(cls, tags: Mapping[int, Any], name: str) -> Georeference | None:
        if _TRANSFORMATION in tags:
            matrix = [float(value) for value in tags[_TRANSFORMATION]]
            x, y = (matrix[0], matrix[1], matrix[3]), (matrix[4], matrix[5], matrix[7])
        elif _PIXEL_SCALE in tags and len(tags.get(_TIE_POINTS, ())) >= 6:
            width, height = (float(value) for value in tags[_PIXEL_SCALE][:2])
            column, row, _, east, north, _ = (float(value) for value in tags[_TIE_POINTS][:6])
            x, y = (width, 0.0, east - column * width), (0.0, -height, north + row * height)
        else:
            if _TIE_POINTS in tags:
                log.warning("%s: it is tied to the map at single points only, and boxes stay in pixels", name)
            return None
        keys = _short_keys(tags.get(_KEYS, ()))
        if keys.get(_RASTER_TYPE) == _POINT:  # the tags speak of the centres of pixels
            x = (x[0], x[1], x[2] - (x[0] + x[1]) / 2)
            y = (y[0], y[1], y[2] - (y[0] + y[1]) / 2)
        epsg = keys.get(_PROJECTED, keys.get(_GEOGRAPHIC, _USER_DEFINED))
        return cls(x, y, None if epsg in (0, _USER_DEFINED) else epsg)


def _short_keys(directory: tuple[int, ...]) -> dict[int, int]:
    """GeoKeys whose values stand in the directory itself: key, place of the value (0: here), count, value."""
    entries = [directory[at : at + 4] for at in range(4, len(directory) - 3, 4)]
    return {int(key): int(value) for key, place, _, value in entries if place == 0}
