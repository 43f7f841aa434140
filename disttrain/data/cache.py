"""Decoded datasets on disk: built once, verified, memory-mapped, shared by all ranks of a node."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from disttrain.data.base import ImageArrays
from disttrain.errors import DataError

_FORMAT = 1
_META = "meta.json"


def default_cache_dir() -> Path:
    """`disttrain/` in the user's cache folder (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "disttrain"


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def cached_arrays(
    key_parts: list[str], cache_dir: str | None, verify: bool, build: Callable[[Path], ImageArrays]
) -> tuple[ImageArrays, str]:
    """The arrays that belong to `key_parts`, memory-mapped, and their sha256 fingerprint.

    Args:
        key_parts: whatever the decoded result depends on; another list is another entry.
        verify: compare the sha256 of every file first, and build again where one differs.
        build: makes the arrays; it may write `images.npy` (as a memory map) into the folder it is given.
    Raises DataError where no cache folder can be written.
    """
    key = hashlib.sha256(json.dumps([_FORMAT, *key_parts]).encode()).hexdigest()[:32]
    root = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
    entry = root / key
    meta = _read_meta(entry, verify)
    if meta is None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=f"{key}.tmp-", dir=root))
        except OSError as error:
            raise DataError(
                f"the cache folder {root} cannot be written ({error.strerror}): decoded images are kept there. "
                "Set data.cache_dir to a folder that can."
            ) from None
        try:
            _write_entry(beside, build(beside))
            _publish(beside, entry)
        except OSError as error:
            raise DataError(
                f"writing the decoded images to {root} failed: {error}. Free some space, or set data.cache_dir."
            ) from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        meta = _read_meta(entry, verify=False)
        if meta is None:
            raise DataError(f"the cache entry {entry} vanished while it was being opened: start again.")
    return _open_entry(entry, meta), meta["fingerprint"]


def _write_entry(folder: Path, arrays: ImageArrays) -> None:
    columns = {"labels": arrays.labels, "scenes": arrays.scenes, "is_test": arrays.is_test}
    if isinstance(arrays.images, np.memmap) and Path(str(arrays.images.filename)).parent.samefile(folder):
        arrays.images.flush()
    else:
        columns["images"] = arrays.images
    for name, column in columns.items():
        if column is not None:
            np.save(folder / f"{name}.npy", column)
    files = {file.name: file_sha256(file) for file in sorted(folder.glob("*.npy"))}
    names = {"class_names": arrays.class_names, "scene_names": arrays.scene_names}
    fingerprint = _fingerprint(files, names)
    (folder / _META).write_text(json.dumps({"files": files, **names, "fingerprint": fingerprint}))


def _fingerprint(files: dict[str, str], names: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([files, names]).encode()).hexdigest()


def _publish(beside: Path, entry: Path) -> None:
    if _read_meta(entry, verify=True) is not None:
        return  # another job built the same entry meanwhile, and may have it open already
    if entry.exists():  # damaged: moved away first, since a folder cannot be replaced in one step
        damaged = entry.with_name(f"{entry.name}.damaged-{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(FileNotFoundError):  # another job has moved it
            entry.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        beside.rename(entry)
    except OSError:
        if not (entry / _META).exists():
            raise
        # Another job built the same entry meanwhile: its bytes are the same.


def _read_meta(entry: Path, verify: bool) -> dict[str, Any] | None:
    try:
        meta: dict[str, Any] = json.loads((entry / _META).read_text())
        if verify and not _is_whole(entry, meta):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return meta


def _is_whole(entry: Path, meta: dict[str, Any]) -> bool:
    names = {key: meta[key] for key in ("class_names", "scene_names")}
    described = meta["fingerprint"] == _fingerprint(meta["files"], names)
    return described and all(file_sha256(entry / name) == digest for name, digest in meta["files"].items())


def _open_entry(entry: Path, meta: dict[str, Any]) -> ImageArrays:
    def column(name: str, mapped: bool = False) -> np.ndarray | None:
        file = f"{name}.npy"
        return np.load(entry / file, mmap_mode="r" if mapped else None) if file in meta["files"] else None

    images, labels = column("images", mapped=True), column("labels")
    if images is None or labels is None:
        raise DataError(f"the cache entry {entry} is incomplete: remove it and start again.")
    return ImageArrays(
        images, labels, tuple(meta["class_names"]), column("scenes"), tuple(meta["scene_names"]), column("is_test")
    )
