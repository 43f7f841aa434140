"""`disttrain data`: look at a dataset, write the drawn one."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from disttrain.config.sections import DataConfig
from disttrain.data.base import ImageArrays
from disttrain.data.datasets.synthetic_planes import chip_names, draw_chips
from disttrain.data.open import open_dataset
from disttrain.data.statistics import channel_statistics
from disttrain.errors import ConfigError


def describe_dataset(data: DataConfig) -> dict[str, Any]:
    """Counts per split and class, image shape, normalisation and fingerprint, as one JSON object."""
    dataset = open_dataset(data)
    summary: dict[str, Any] = {"name": data.name, "path": data.path, "splits": {}}
    for split, ids in dataset.splits.items():
        counts: dict[str, int] = {}
        if dataset.labels is not None:
            numbers = np.bincount(dataset.labels[ids], minlength=len(dataset.class_names))
            counts = dict(zip(dataset.class_names, numbers.tolist(), strict=True))
        summary["splits"][split] = {"count": len(ids), "classes": counts}
    if isinstance(dataset.samples, ImageArrays):
        summary["image_shape"] = list(dataset.samples.images.shape[1:])
        summary["scenes"] = len(dataset.samples.scene_names) or None
        summary["mean"], summary["std"] = channel_statistics(dataset)
    return {**summary, "fingerprint": dataset.fingerprint}


def make_synthetic(output: Path, count: int, seed: int) -> None:
    """Write drawn chips as PNG files in PlanesNet's own form, into a folder or a zip.

    Raises ConfigError where `output` exists already or `count` is below 1.
    """
    if count < 1:
        raise ConfigError(f"--count {count}: at least one chip.")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"{output} exists already: nothing is overwritten. Name another folder or zip file.")
    images, labels, scenes = draw_chips(count, seed)
    names = chip_names(labels, scenes, seed)
    if output.suffix.lower() == ".zip":
        with zipfile.ZipFile(output, "x") as archive:
            for name, image in zip(names, images, strict=True):
                archive.writestr(f"{output.stem}/{name}", _png(image))
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images, strict=True):
        (output / name).write_bytes(_png(image))


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
