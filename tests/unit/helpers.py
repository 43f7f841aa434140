"""Small things that many unit tests need: images as bytes, PlanesNet and MNIST in miniature."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from disttrain.config.sections import DataConfig
from disttrain.data.base import Dataset, ImageArrays
from disttrain.data.image_store import ImageStore

T = TypeVar("T")

SCENES = ("20160101_180000_0001", "20160202_180000_0002", "20160303_180000_0003")


def png(image: np.ndarray) -> bytes:
    """uint8 [height, width, 3] or [height, width] as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def random_image(seed: int, height: int = 20, width: int = 20) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def chips(count: int) -> dict[str, np.ndarray]:
    """Chips in PlanesNet's form by file name, in sorted order."""
    made = {f"{k % 2}__{SCENES[k % 3]}__-122.{k:04d}_37.5.png": random_image(k) for k in range(count)}
    return dict(sorted(made.items()))


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def store_of(tmp_path: Path, kind: str, files: Mapping[str, bytes]) -> ImageStore:
    """The files as a folder or as a zip."""
    return ImageStore(write_folder(tmp_path / "f", files) if kind == "folder" else write_zip(tmp_path / "f.zip", files))


def planesnet_json(made: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """The same chips as the published JSON file has them."""
    return {
        "data": [image.transpose(2, 0, 1).reshape(-1).tolist() for image in made.values()],
        "labels": [int(name[0]) for name in made],
        "scene_ids": [name.split("__")[1] for name in made],
        "locations": [[0.0, 0.0] for _ in made],
    }


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def idx(values: np.ndarray) -> bytes:
    """uint8 values in the IDX format."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.astype(np.uint8).tobytes()


def mnist_files(train: int = 12, test: int = 5) -> dict[str, bytes]:
    draw = np.random.RandomState(1)
    return {
        "train-images-idx3-ubyte": idx(draw.randint(0, 256, (train, 28, 28))),
        "train-labels-idx1-ubyte": idx(np.arange(train) % 10),
        "t10k-images-idx3-ubyte": idx(draw.randint(0, 256, (test, 28, 28))),
        "t10k-labels-idx1-ubyte": idx(np.arange(test) % 10),
    }


def gzipped(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(content) for name, content in files.items()}


def data_config(path: Path | str | None = None, **fields: object) -> DataConfig:
    return DataConfig.model_validate({"path": None if path is None else str(path), **fields})


def not_none(value: T | None) -> T:
    assert value is not None
    return value


def image_arrays(dataset: Dataset) -> ImageArrays:
    """The samples of a dataset of images that are decoded beforehand."""
    assert isinstance(dataset.samples, ImageArrays)
    return dataset.samples


def run_python(code: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, check=False)
