"""What a user names for `predict` and `detect`: files, folders and globs, as paths."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from disttrain.data.decode import image_suffixes
from disttrain.data.file_kind import is_zip
from disttrain.data.image_store import ImageStore
from disttrain.errors import DataError
from disttrain.log import log


def expand_globs(inputs: Sequence[str]) -> Iterator[Path]:
    """The paths in the order given, those of a glob sorted; one that is not there stays. Raises DataError for a glob
    that matches nothing."""
    for given in inputs:
        paths = [given] if Path(given).exists() else sorted(glob.glob(given, recursive=True))  # noqa: PTH207 (absolute patterns too)
        if not paths and any(sign in given for sign in "*?["):
            raise DataError(f"{given} matches no file.")
        yield from map(Path, paths or [given])


def holds_images(path: Path) -> bool:
    """Whether a path is a folder or a zip. An image may have a zip behind it; a zip has no image's suffix."""
    return path.is_dir() or (path.suffix.lower() not in image_suffixes() and is_zip(path))


def no_images(path: Path, others: str) -> DataError:
    """For a folder or a zip without any; `others`: what it holds instead."""
    return DataError(f"{path} holds no images{others}. Images are {', '.join(image_suffixes())}.")


def open_listed(path: Path) -> ImageStore:
    """The images of a folder or a zip; what is left out there is counted in a warning. Raises DataError where there
    are none."""
    store = ImageStore(path)
    listing = store.listing
    if not listing.images and not listing.unreadable:
        raise no_images(store.path, listing.describe_others())
    if left_out := listing.describe_left_out():
        log.warning("%s: left out %s", store.path, left_out)
    return store


def expand_scenes(inputs: Sequence[str]) -> list[str]:
    """The paths of scenes: of a folder all images in it, sorted. Raises DataError for a zip, and for no images."""
    scenes: list[str] = []
    for path in expand_globs(inputs):
        if not holds_images(path):
            scenes.append(str(path))
            continue
        if not path.is_dir():
            raise DataError(f"{path} is a zip file, and scenes are read in pieces, from files of their own: unpack it.")
        listing = open_listed(path).listing
        scenes += [f"{path}/{name}" for name in sorted([*listing.images, *listing.unreadable])]
    return scenes
