"""Small trees of images as folders and as zips, and what the product makes of them."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from disttrain.config import build_config
from disttrain.config.sections import DataConfig
from disttrain.data.base import Dataset
from disttrain.data.open import open_dataset
from disttrain.errors import DataError, DisttrainError
from disttrain.inference.predict_files import predict_files
from disttrain.launch.env import RankEnv
from disttrain.models.build import build_model
from disttrain.models.model_dir import ModelSpec, save_model_dir

CAT_DOG = ("cat", "dog")


def picture(seed: int, form: str = "PNG") -> bytes:
    """A 6x6 RGB picture, another for each seed."""
    image = Image.fromarray(np.random.RandomState(seed).randint(0, 256, (6, 6, 3)).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def classes(*folders: str, count: int = 3, suffix: str = "png") -> dict[str, bytes]:
    """`count` pictures in each folder."""
    return {f"{folder}/{k}.{suffix}": picture(k) for folder in folders for k in range(count)}


def as_folder(root: Path, files: Mapping[str, bytes], empty: Iterable[str] = ()) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    for name in empty:
        (root / name).mkdir(parents=True)
    return root


def as_zip(
    path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED, empty: Iterable[str] = ()
) -> Path:
    """Names go into the zip as they are, backslashes too."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in empty:
            archive.writestr(f"{name}/", b"")
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, compression
            archive.writestr(info, content)
    return path


def below(top: str, *names: str, **options: Any) -> dict[str, bytes]:
    return classes(*(f"{top}/{name}" for name in names), **options)


def config(path: Path, name: str = "image_folder", **fields: Any) -> DataConfig:
    return build_config({"data": {"name": name, "path": str(path), **fields}}).data


def opened(path: Path, name: str = "image_folder", **fields: Any) -> Dataset:
    return open_dataset(config(path, name, **fields))


def refused(path: Path, name: str = "image_folder", **fields: Any) -> str:
    with pytest.raises(DataError) as error:
        opened(path, name, **fields)
    return str(error.value)


def counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Images of each class in each split that has any."""
    assert dataset.labels is not None
    found = {}
    for split, ids in dataset.splits.items():
        numbers = np.bincount(dataset.labels[ids], minlength=len(dataset.class_names))
        if len(ids):
            found[split] = dict(zip(dataset.class_names, numbers.tolist(), strict=True))
    return found


def save_classifier(folder: Path, channels: int) -> Path:
    """An untrained model directory for 6x6 pictures of `cat` and `dog`."""
    shape = (channels, 6, 6)
    model = build_model(build_config({"model": {"name": "mnist_mlp"}}).model, shape, 2)
    save_model_dir(
        folder, model, ModelSpec("mnist_mlp", {}, 0.0, shape, CAT_DOG, (128.0,) * channels, (64.0,) * channels)
    )
    return folder


class Alone:
    """The control plane of one rank."""

    def run_on_all(self, stage: str, make: Callable[[], Any], first: bool = True) -> Any:
        return make()

    def sum(self, name: str, value: int) -> int:
        return value


def predicted(
    model: Path, given: Path | str, capsys: pytest.CaptureFixture[str], output: Path | None = None
) -> tuple[list[dict[str, str]], str]:
    """The rows of the CSV, and what the command says at its end."""
    message = ""
    capsys.readouterr()
    try:
        plane: Any = Alone()
        predict_files(
            model, [str(given)], None if output is None else str(output), "cpu", False, RankEnv.alone(), plane
        )
    except DisttrainError as error:
        message = str(error)
    text = output.read_text(errors="surrogateescape") if output else capsys.readouterr().out
    return list(csv.DictReader(io.StringIO(text))), message
