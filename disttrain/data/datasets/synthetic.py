"""The drawn dataset as a dataset: nothing to download, nothing to keep on disk but the cache."""

from __future__ import annotations

import numpy as np

from disttrain.config.sections import DataConfig
from disttrain.data.base import ImageArrays
from disttrain.data.cache import cached_arrays
from disttrain.data.datasets.synthetic_planes import CLASS_NAMES, draw_chips
from disttrain.errors import ConfigError

_DEFAULTS = {"count": 12_000, "seed": 0}


def open_synthetic_planes(data: DataConfig, verify: bool) -> tuple[ImageArrays, str]:
    """`data.kwargs` may hold `count` and `seed`. Raises ConfigError for anything else there."""
    settings = {**_DEFAULTS, **data.kwargs}
    unknown = sorted(set(settings) - set(_DEFAULTS))
    wrong = [key for key, value in settings.items() if type(value) is not int]
    if unknown or wrong or settings["count"] < 1:
        raise ConfigError(
            f"data.kwargs={data.kwargs}: synthetic_planes takes count (a whole number of at least 1) and seed (a whole "
            "number)."
        )
    if data.path is not None:
        raise ConfigError(f"data.path={data.path} has no effect on synthetic_planes, which is drawn. Leave it out.")
    count, seed = settings["count"], settings["seed"]
    key = ["synthetic_planes", str(count), str(seed)]
    return cached_arrays(key, data.cache_dir, verify, lambda folder: draw_arrays(count, seed))


def draw_arrays(count: int, seed: int) -> ImageArrays:
    """`count` chips of the seed, as images [count, 3, 20, 20] with labels and scenes."""
    images, labels, scenes = draw_chips(count, seed)
    scene_names, scene_of = np.unique(scenes, return_inverse=True)
    return ImageArrays(
        np.ascontiguousarray(images.transpose(0, 3, 1, 2)),
        labels,
        CLASS_NAMES,
        scene_of.astype(np.int64),
        tuple(map(str, scene_names)),
    )
