"""Images of any size in one folder a class: `root/class/*.png`, or `root/train/class/...` and `root/test/class/...`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from disttrain.config.sections import DataConfig
from disttrain.data.base import ImageArrays, MapDataset
from disttrain.data.cache import cached_arrays
from disttrain.data.datasets.reading import read_images, require_path, require_some
from disttrain.data.images import DECODE_ERRORS, ImageStore, decode_image, describe_unreadable
from disttrain.errors import DataError
from disttrain.files import file_identity

_TEST_FOLDERS = ("test", "val")


class ImageFiles:
    """Map-style dataset that decodes on demand: items are (uint8 [3, height, width], label)."""

    def __init__(
        self, store: ImageStore, names: list[str], labels: np.ndarray, shape: tuple[int, int, int], resize: bool
    ) -> None:
        self.store, self.names, self.labels, self.shape, self.resize = store, names, labels, shape, resize

    def __len__(self) -> int:
        return len(self.names)

    def file_marks(self) -> list[str]:
        """Name, label and size (in a zip size and CRC-32) of every file, as they are on any machine."""
        if not self.store.path.is_dir():
            return [*self.store.signature(), *map(str, self.labels)]
        files = zip(self.names, self.labels, strict=True)
        return [f"{name} {label} {(self.store.path / name).stat().st_size}" for name, label in files]

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Raises DataError for an image that cannot be read."""
        try:
            image = decode_image(self.store.read(self.names[index]), self.shape, self.resize)
        except DECODE_ERRORS as error:
            raise _cannot_be_used(self.store, self.names[index], error) from None
        return image, int(self.labels[index])


def open_image_folder(data: DataConfig, verify: bool) -> tuple[ImageArrays | MapDataset, ImageArrays, str]:
    """The images below `data.path`: (samples, a table without pixels for the split, fingerprint)."""
    path = require_path(data)
    store = ImageStore(path)
    names = store.names()
    require_some(len(names), f"{path} holds no images. image_folder is root/class/image.png.")
    published = {name.split("/")[0] for name in names} <= {"train", *_TEST_FOLDERS}
    depth = 1 if published else 0
    loose = [name for name in names if name.count("/") < depth + 1]
    if loose:
        raise DataError(
            f"{path / loose[0]} is in no class folder ({len(loose)} such images). Use root/class/image.png."
        )
    classes = sorted({name.split("/")[depth] for name in names})
    labels = np.array([classes.index(name.split("/")[depth]) for name in names], dtype=np.int64)
    is_test = np.array([name.split("/")[0] in _TEST_FOLDERS for name in names]) if published else None
    shape = (3, *(data.image_size or _first_size(store, names, data.skip_unreadable)))
    signature = ["image_folder", str(shape), str(data.image_size), str(data.skip_unreadable)]
    signature += [file_identity(path), *store.signature()]
    table = ImageArrays(np.empty((len(names), 0)), labels, tuple(classes), is_test=is_test)
    decoded_mib = len(names) * int(np.prod(shape)) / 2**20
    if data.placement == "stream" or (data.placement == "auto" and decoded_mib > data.device_budget_mib):
        return ImageFiles(store, names, labels, shape, data.image_size is not None), table, ""

    def read(folder: Path) -> ImageArrays:
        images, keep = read_images(store, names, shape, data, folder)
        return ImageArrays(images, labels[keep], tuple(classes), is_test=None if is_test is None else is_test[keep])

    arrays, fingerprint = cached_arrays(signature, data.cache_dir, verify, read)
    return arrays, arrays, fingerprint


def _first_size(store: ImageStore, names: list[str], skip_unreadable: bool) -> tuple[int, int]:
    for name in names:
        try:
            with Image.open(io.BytesIO(store.read(name))) as image:
                return image.height, image.width
        except DECODE_ERRORS as error:
            if not skip_unreadable:
                raise _cannot_be_used(store, name, error) from None
    raise DataError(f"none of the {len(names)} images in {store.path} can be used.")


def _cannot_be_used(store: ImageStore, name: str, error: BaseException) -> DataError:
    return DataError(
        f"{store.path / name} cannot be used: {describe_unreadable(error)}. Repair or remove it; for images of "
        "several sizes set data.image_size=[height, width]."
    )
