"""Decoded datasets on disk: built once, verified, memory-mapped, shared by all ranks of a node."""

from __future__ import annotations

import contextlib
import errno
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
import PIL

import disttrain
from disttrain.data.base import ImageArrays
from disttrain.errors import ConfigError, DataError
from disttrain.files import file_sha256, user_path

_FORMAT = 2
_MADE_BY = (_FORMAT, disttrain.__version__, PIL.__version__)  # another decoder may give other pixels
_META = "meta.json"
_ATTEMPTS = 5


def default_cache_dir() -> Path:
    """`disttrain/` in the user's cache folder (XDG base directory specification). Raises DataError: there is none."""
    try:
        return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "disttrain"
    except ConfigError:
        raise DataError(
            f"there is no folder for decoded images: HOME is not set and user id {os.getuid()} has no home folder. Set "
            "data.cache_dir (or XDG_CACHE_HOME) to a folder that can be written."
        ) from None


def cached_arrays(
    key_parts: list[str], cache_dir: str | None, verify: bool, build: Callable[[Path], ImageArrays]
) -> tuple[ImageArrays, str]:
    """The arrays that belong to `key_parts`, memory-mapped, and their sha256 fingerprint.

    Args:
        key_parts: whatever the decoded result depends on, files by their `file_identity`; another list is another
            entry.
        verify: compare the sha256 of every file first, and build again where one differs.
        build: makes the arrays; it may write `images.npy` (as a memory map) into the folder it is given.
    Raises DataError where no cache folder can be written.
    """
    key = hashlib.sha256(json.dumps([*_MADE_BY, *key_parts]).encode()).hexdigest()[:32]
    root = user_path(cache_dir) if cache_dir is not None else default_cache_dir()
    entry = root / key
    for _ in range(_ATTEMPTS):
        meta = _read_meta(entry, verify)
        if meta is None:
            _build_entry(entry, build)
            meta = _read_meta(entry, verify=False)
        # Two jobs that find an entry damaged may both move it away, one of them what the other has just put there.
        if meta is not None and (arrays := _open_entry(entry, meta)) is not None:
            return arrays, meta["fingerprint"]
    raise DataError(f"the cache entry {entry} vanishes while it is opened: set data.cache_dir to another folder.")


def _build_entry(entry: Path, build: Callable[[Path], ImageArrays]) -> None:
    root = entry.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f"{entry.name}.tmp-", dir=root))
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


def _write_entry(folder: Path, arrays: ImageArrays) -> None:
    columns = {name: getattr(arrays, name) for name in ("labels", "scenes", "is_test", "is_val")}
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
    """Put an entry in its place, unless a whole one is there by now: another job may have that one open already."""
    while not _renamed(beside, entry) and _read_meta(entry, verify=True) is None:
        damaged = entry.with_name(f"{entry.name}.damaged-{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(FileNotFoundError):  # another job has moved it
            entry.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)


def _renamed(beside: Path, entry: Path) -> bool:
    """Whether a folder could take the name, in one step: it cannot where there is one with something in it."""
    try:
        beside.rename(entry)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        return False
    return True


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


def _open_entry(entry: Path, meta: dict[str, Any]) -> ImageArrays | None:
    """The arrays of an entry, or None where it has vanished."""

    def column(name: str, mapped: bool = False) -> np.ndarray | None:
        file = f"{name}.npy"
        return np.load(entry / file, mmap_mode="r" if mapped else None) if file in meta["files"] else None

    try:
        images, labels = column("images", mapped=True), column("labels")
        scenes, is_test, is_val = column("scenes"), column("is_test"), column("is_val")
    except FileNotFoundError:
        return None
    if images is None or labels is None:
        raise DataError(f"the cache entry {entry} is incomplete: remove it and start again.")
    return ImageArrays(images, labels, tuple(meta["class_names"]), scenes, tuple(meta["scene_names"]), is_test, is_val)
