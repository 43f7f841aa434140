"""A scene with the boxes that were found in it."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from disttrain.data.scene import open_scene
from disttrain.inference.box_files import SceneBoxes

_LARGEST_PIXELS = 25_000_000
_ROWS = 1024
_COLOUR = (255, 0, 80)


def render_picture(found: SceneBoxes, suffix: str) -> bytes:
    """A PNG (`.png`) or JPEG of the scene, above 25 million pixels every n-th pixel of it. Raises UnreadableImage."""
    scene = open_scene(Path(found.scene), 3)
    shrink = max(1, math.ceil(math.sqrt(scene.height * scene.width / _LARGEST_PIXELS)))
    rows = _ROWS // shrink * shrink
    parts = [
        scene.read(top, 0, min(rows, scene.height - top), scene.width)[:, ::shrink, ::shrink].transpose(1, 2, 0)
        for top in range(0, scene.height, rows)
    ]
    picture = Image.fromarray(np.concatenate(parts))
    draw = ImageDraw.Draw(picture)
    for box in found.boxes:
        left, top = box.x // shrink, box.y // shrink
        draw.rectangle((left, top, left + box.width // shrink - 1, top + box.height // shrink - 1), outline=_COLOUR)
    file = io.BytesIO()
    if suffix == ".png":
        picture.save(file, "PNG")
    else:
        picture.save(file, "JPEG", quality=90)
    return file.getvalue()
