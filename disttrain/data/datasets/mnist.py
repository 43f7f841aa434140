"""MNIST (LeCun, Cortes, Burges): 60,000 + 10,000 grey 28x28 digits, as the four IDX files, gzipped or not.

The IDX format: two zero bytes, the type (8 = uint8), the number of dimensions, each dimension as a big-endian int32,
then the values.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from disttrain.config.sections import DataConfig
from disttrain.data.base import ImageArrays
from disttrain.data.cache import cached_arrays, default_cache_dir
from disttrain.data.datasets.reading import require_path
from disttrain.data.file_kind import kind_of_bytes, kind_of_file
from disttrain.errors import DataError
from disttrain.files import file_identity, user_path
from disttrain.system.waits import announced

_DOWNLOAD_S = 30.0
CLASS_NAMES = tuple("0123456789")
_GZIP = b"\x1f\x8b"
_TYPES = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def open_mnist(data: DataConfig, verify: bool) -> tuple[ImageArrays, str]:
    """The digits below `data.path`, or downloaded by torchvision where that is not given, and their fingerprint."""
    files = _find_files(_folder(data)) if data.path is not None else _download(data)
    return cached_arrays(["mnist", *map(file_identity, files)], data.cache_dir, verify, lambda folder: _read(files))


def _folder(data: DataConfig) -> Path:
    path = require_path(data)
    if not path.is_dir():
        raise DataError(
            f"data.path={data.path} is {kind_of_file(path)}, not a folder. MNIST is a folder with the four IDX files "
            f"{', '.join(_FILES)}: unpack it, or give the folder."
        )
    return path


def _find_files(root: Path) -> list[Path]:
    found: list[Path] = []
    for name in _FILES:
        # As published, as torchvision keeps them, and as on Kaggle: with a dot, each in a folder of its own name.
        names = (name, name.replace("-idx", ".idx"))
        places = [root / sub / (one + end) for sub in ("", "MNIST/raw", "raw", *names) for one in names
                  for end in ("", ".gz")]  # fmt: skip
        file = next((path for path in places if path.is_file()), None)
        if file is None:
            there = sorted(path.name for path in root.iterdir())[:8] if root.is_dir() else []
            raise DataError(
                f"data.path={root} has no {name} or {name}.gz. MNIST is the four IDX files {', '.join(_FILES)}; "
                f"there is {', '.join(there) or 'nothing'}."
            )
        found.append(file)
    return found


@contextlib.contextmanager
def _answers_within(seconds: float) -> Iterator[None]:
    """A server that gives no answer for so long is an error: urllib would wait for ever."""
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(usual)


def _download(data: DataConfig) -> list[Path]:
    from torchvision.datasets import MNIST

    root = user_path(data.cache_dir) if data.cache_dir is not None else default_cache_dir()
    try:
        return _find_files(root)
    except DataError:
        pass
    try:
        with announced("waiting for the download of MNIST"), _answers_within(_DOWNLOAD_S):
            MNIST(root, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"MNIST could not be downloaded ({error}). Set data.path to a folder that holds {', '.join(_FILES)}."
        ) from None
    return _find_files(root)


def _read(files: list[Path]) -> ImageArrays:
    train_images, train_labels, test_images, test_labels = map(_read_idx, files)
    for images, labels, file in ((train_images, train_labels, files[0]), (test_images, test_labels, files[2])):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise DataError(f"{file} holds {images.shape} images for {labels.shape} labels: they do not match.")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{files[0]} holds images {train_images.shape[1:]}, {files[2]} {test_images.shape[1:]}: they do not match."
        )
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    if labels.max(initial=0) > 9:
        raise DataError(f"{files[1].parent} has label {labels.max()}, out of range: MNIST labels are 0 to 9.")
    images = np.concatenate([train_images, test_images])[:, None]
    return ImageArrays(images, labels, CLASS_NAMES, is_test=np.arange(len(labels)) >= len(train_labels))


def _read_idx(file: Path) -> np.ndarray:
    """An IDX file of uint8 values, gzipped or not, whatever its name says. Raises DataError where it is damaged."""
    try:
        content = file.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} is damaged: {error}. Copy or download it again.") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        kind = _TYPES.get(content[2]) if content[:2] == b"\0\0" and len(content) >= 4 else None
        what = f"an IDX file of {kind} values" if kind else kind_of_bytes(content) or "of an unknown kind"
        raise DataError(
            f"{file} is not an IDX file of uint8 values: it begins with {content[:4]!r} (it is {what}). Copy or "
            "download it again."
        )
    if content[3] not in (1, 3):
        raise DataError(
            f"{file} has {content[3]} dimensions: MNIST's images have 3, its labels 1. Give MNIST's own files."
        )
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    expected, found = math.prod(shape), len(content) - start
    if found < expected or found < 0:
        raise DataError(f"{file} is cut short: its header says {shape}, it holds {max(found, 0)} values.")
    if found > expected:
        raise DataError(
            f"{file} is {found - expected} bytes too long: its header says {shape}, it holds {found} values. Copy or "
            "download it again."
        )
    if found == 0:
        raise DataError(f"{file} is empty: its header says {shape}.")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
