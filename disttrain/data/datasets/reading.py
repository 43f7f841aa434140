"""What the readers of image files share: decode with a progress bar, refuse or leave out what cannot be read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from disttrain.config.sections import DataConfig
from disttrain.data.base import ImageArrays
from disttrain.data.cache import cached_arrays
from disttrain.data.decode_all import BadImages, decode_all
from disttrain.data.image_store import ImageStore
from disttrain.errors import DataError
from disttrain.files import file_identity, user_path
from disttrain.log import log

_DECODING_RULES = "2"
"""Part of every cache key: another number wherever the same file gives other pixels than before."""
_SHOWN = 5


def require_path(data: DataConfig) -> Path:
    """`data.path` as a path that exists. Raises DataError."""
    if data.path is None:
        raise DataError(f"data.name={data.name} needs data.path: the folder or file that holds the data.")
    path = user_path(data.path)
    if not path.exists():
        raise DataError(f"data.path={data.path} does not exist (looked in {Path.cwd()}).")
    return path


def open_store(data: DataConfig) -> ImageStore:
    """The images below `data.path`; what is left out there is counted in a warning. Raises DataError."""
    store = ImageStore(require_path(data))
    if left_out := store.listing.describe_left_out():
        log.warning("%s: left out %s", store.path, left_out)
    return store


def cached_images(
    store: ImageStore, count: int, key: list[str], data: DataConfig, verify: bool, read: Callable[[Path], ImageArrays]
) -> tuple[ImageArrays, str]:
    """`cached_arrays` of the images in a store, of which `count` were to be used; `key`: what else they depend on."""
    built = False

    def build(folder: Path) -> ImageArrays:
        nonlocal built
        built = True
        return read(folder)

    parts = [*key, _DECODING_RULES, str(data.skip_unreadable), file_identity(store.path), *store.signature()]
    arrays, fingerprint = cached_arrays(parts, data.cache_dir, verify, build)
    left_out = count - len(arrays)
    if left_out and not built:  # who has built them has named each
        log.warning(
            "%s: left out %d of %d images that cannot be used (data.skip_unreadable=true)", store.path, left_out, count
        )
    return arrays, fingerprint


def require_some(count: int, otherwise: str) -> None:
    """Raise DataError with the message `otherwise` where there are no samples."""
    if count == 0:
        raise DataError(otherwise)


def read_images(
    store: ImageStore,
    names: list[str],
    shape: tuple[int, int, int],
    data: DataConfig,
    folder: Path,
    known_bad: BadImages = [],  # noqa: B006 (never changed)
) -> tuple[np.ndarray, np.ndarray]:
    """Decode `names` into `folder/images.npy`: (uint8 [n, *shape] memory map, bool [len(names)] of those kept).

    Raises DataError listing the images that cannot be used, unless `data.skip_unreadable`.
    """
    out = _open_map(folder / "images.npy", (len(names), *shape))
    with tqdm(total=len(names), desc="decoding images", unit="img", leave=False, disable=None) as bar:
        bad = decode_all(store, names, out, data.image_size is not None, bar.update)
    every_bad = [*known_bad, *bad]
    if every_bad:
        report_unreadable(store, every_bad, len(names) + len(known_bad), data.skip_unreadable)
    unreadable = {name for name, _ in bad}
    keep = np.array([name not in unreadable for name in names], dtype=bool)
    require_some(int(keep.sum()), f"none of the {len(every_bad)} images in {store.path} can be used.")
    return (out if keep.all() else np.asarray(out[keep])), keep


def _open_map(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A new uint8 memory map whose space on the disk is taken: on a full one, writing to it would end the process."""
    out = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    return out


def report_unreadable(store: ImageStore, bad: BadImages, total: int, skip: bool) -> None:
    """Warn about images that are left out, or raise DataError about ones that may not be."""
    shown = "".join(f"\n  {name}: {reason}" for name, reason in bad[:_SHOWN])
    more = f"\n  ... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    what = f"{len(bad)} of {total} images in {store.path} cannot be used:{shown}{more}"
    if not skip:
        raise DataError(f"{what}\nRepair or remove them, or set data.skip_unreadable=true to go on without them.")
    tqdm.write(f"warning: left out {what}", file=sys.stderr)
