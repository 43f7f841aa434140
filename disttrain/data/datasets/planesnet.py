"""PlanesNet (R. Hammell, CC BY-SA 4.0): 20x20 RGB satellite chips, plane or no-plane.

Published as PNG chips `<label>__<scene>__<lon>_<lat>.png` (a folder or a zip) and as `planesnet.json`, in which a chip
is 1,200 numbers: 400 red, 400 green, 400 blue, row by row.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from disttrain.config.sections import DataConfig
from disttrain.data.base import ImageArrays
from disttrain.data.cache import cached_arrays
from disttrain.data.datasets.reading import (
    cached_images,
    open_store,
    read_images,
    require_path,
    require_some,
)
from disttrain.data.file_kind import kind_of_file, starts_json
from disttrain.data.image_store import ImageStore
from disttrain.errors import DataError
from disttrain.files import file_identity

CLASS_NAMES = ("no-plane", "plane")
CHIP_SHAPE = (3, 20, 20)
_NAME = re.compile(r"(?:.*/)?(?P<label>[^/_]+)__(?P<scene>[^/]+?)__[^/]*")


def open_planesnet(data: DataConfig, verify: bool) -> tuple[ImageArrays, str]:
    """The chips below `data.path` and their fingerprint. Raises DataError."""
    path = require_path(data)
    if path.is_dir() and (path / "planesnet.json").is_file():
        path = path / "planesnet.json"
    if path.suffix.lower() == ".json" or (path.is_file() and starts_json(path)):
        key = ["planesnet-json", file_identity(path)]
        return cached_arrays(key, data.cache_dir, verify, lambda folder: _read_json(path))
    store = open_store(data)
    names, unreadable = store.names(), store.listing.unreadable
    if not names and not unreadable:
        raise DataError(
            f"{path} holds no PNG chips{store.listing.describe_others()}. PlanesNet is a folder or zip of "
            "<label>__<scene>__<lon>_<lat>.png, or planesnet.json."
        )
    return cached_images(
        store,
        len(names) + len(unreadable),
        ["planesnet-png", *unreadable],
        data,
        verify,
        lambda folder: _read_chips(store, data, folder),
    )


def _read_chips(store: ImageStore, data: DataConfig, folder: Path) -> ImageArrays:
    good, labels, scenes = [], [], []
    bad = list(store.listing.unreadable.items())
    for name in store.names():
        match = _NAME.fullmatch(name)
        if match is None:
            bad.append((name, "its name is not <label>__<scene>__<lon>_<lat>.png"))
        elif match["label"] not in ("0", "1"):
            bad.append((name, f"label {match['label']!r} is out of range: 0 (no-plane) or 1 (plane)"))
        else:
            good.append(name)
            labels.append(int(match["label"]))
            scenes.append(match["scene"])
    images, keep = read_images(store, good, CHIP_SHAPE, data, folder, known_bad=bad)
    return _arrays(images, np.array(labels)[keep], np.array(scenes)[keep])


def _arrays(images: np.ndarray, labels: np.ndarray, scenes: Sequence[str] | np.ndarray) -> ImageArrays:
    scene_names, scene_of = np.unique(np.asarray(scenes), return_inverse=True)
    return ImageArrays(
        images, labels.astype(np.int64), CLASS_NAMES, scene_of.astype(np.int64), tuple(map(str, scene_names))
    )


def _read_json(path: Path) -> ImageArrays:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON: {error}{_instead(path)}. Copy or download it again.") from None
    table = content if isinstance(content, dict) else {}
    missing = [key for key in ("data", "labels", "scene_ids") if not isinstance(table.get(key), list)]
    if missing:
        found = f"the keys {', '.join(list(table)[:8])}" if table else f"a {type(content).__name__}"
        raise DataError(
            f"{path} lacks the lists {', '.join(missing)}: planesnet.json has data, labels, scene_ids, locations, and "
            f"this file has {found}."
        )
    labels, scenes = content["labels"], content["scene_ids"]
    if not len(content["data"]) == len(labels) == len(scenes):
        raise DataError(
            f"{path} is inconsistent: {len(content['data'])} chips, {len(labels)} labels, {len(scenes)} scene ids."
        )
    require_some(len(labels), f"{path} holds no chips.")
    unnamed = next((k for k, scene in enumerate(scenes) if type(scene) not in (str, int) or scene == ""), None)
    if unnamed is not None:
        raise DataError(
            f"{path}: scene id {scenes[unnamed]!r} of chip {unnamed} is no name: the split is by scene, so each chip "
            "needs one (a text or a whole number)."
        )
    for index, (chip, label) in enumerate(zip(content["data"], labels, strict=True)):
        numbers = len(chip) if isinstance(chip, list) else 0
        if numbers != 1200:
            raise DataError(f"{path}: chip {index} has {numbers} numbers, expected 1200 (400 red, green, blue each).")
        if type(label) not in (int, float, bool) or label not in (0, 1):
            raise DataError(f"{path}: label {label!r} of chip {index} is out of range: 0 (no-plane) or 1 (plane).")
    try:
        pixels = np.array(content["data"])
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: the chips are not numbers: {error}.") from None
    if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
        raise DataError(f"{path}: pixel values must be whole numbers from 0 to 255.")
    return _arrays(pixels.astype(np.uint8).reshape(-1, *CHIP_SHAPE), np.array(labels), list(map(str, scenes)))


def _instead(path: Path) -> str:
    """What the file is, where it is known to be something else."""
    with contextlib.suppress(OSError):
        if not starts_json(path):
            return f" (it is {kind_of_file(path)})"
    return ""
