"""Small trees of images, as folders and as zips."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


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
