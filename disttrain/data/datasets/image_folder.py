"""Images of any size in one folder a class: `root/class/*.png`, or `root/train/class/...` and `root/test/class/...`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from disttrain.config.sections import DataConfig
from disttrain.data.base import ImageArrays, MapDataset
from disttrain.data.class_tree import ClassTree, arrange
from disttrain.data.datasets.reading import cached_images, open_store, read_images, report_unreadable
from disttrain.data.decode import UnreadableImage, decode_image, image_size
from disttrain.data.image_store import ImageStore
from disttrain.errors import DataError


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
        except UnreadableImage as error:
            raise _cannot_be_used(self.store, self.names[index], error) from None
        return image, int(self.labels[index])


def open_image_folder(data: DataConfig, verify: bool) -> tuple[ImageArrays | MapDataset, ImageArrays, str]:
    """The images below `data.path`: (samples, a table without pixels for the split, fingerprint). Raises DataError."""
    store = open_store(data)
    unreadable = list(store.listing.unreadable.items())
    if unreadable:
        report_unreadable(store, unreadable, len(unreadable) + len(store.names()), data.skip_unreadable)
    tree = arrange(store.listing, store.path)
    shape = (3, *(data.image_size or _first_size(store, tree.names, data.skip_unreadable)))
    table = _arrays(tree, np.empty((len(tree.names), 0)), np.ones(len(tree.names), dtype=bool))
    decoded_mib = len(tree.names) * int(np.prod(shape)) / 2**20
    if data.placement == "stream" or (data.placement == "auto" and decoded_mib > data.device_budget_mib):
        return ImageFiles(store, tree.names, tree.labels, shape, data.image_size is not None), table, ""

    def read(folder: Path) -> ImageArrays:
        images, keep = read_images(store, tree.names, shape, data, folder)
        _require_every_class(tree, keep, store)
        return _arrays(tree, images, keep)

    key = ["image_folder", str(shape), str(data.image_size), *_layout(tree)]
    arrays, fingerprint = cached_images(store, len(tree.names), key, data, verify, read)
    return arrays, arrays, fingerprint


def _layout(tree: ClassTree) -> list[str]:
    """What the folders were taken for: empty ones show in no file's name."""
    return [*tree.class_names, "no splits" if tree.splits is None else "splits"]


def _arrays(tree: ClassTree, images: np.ndarray, keep: np.ndarray) -> ImageArrays:
    """With a folder for validation and none for testing, the figure at the end is taken on that one."""
    is_test = is_val = None
    if tree.splits is not None:
        splits = tree.splits[keep]
        is_val = splits == "val" if "test" in tree.splits and "val" in tree.splits else None
        is_test = splits == "test" if is_val is not None else splits != "train"
    return ImageArrays(images, tree.labels[keep], tree.class_names, is_test=is_test, is_val=is_val)


def _require_every_class(tree: ClassTree, keep: np.ndarray, store: ImageStore) -> None:
    """Raise DataError for a class of which no image can be used, or none to train on where there are some of others."""
    if tree.splits is not None and "train" in tree.splits:
        keep = keep & (tree.splits == "train")
    kept = np.bincount(tree.labels[keep], minlength=len(tree.class_names))
    lost = [name for name, count in zip(tree.class_names, kept, strict=True) if count == 0]
    if lost:
        raise DataError(
            f"none of the images of {', '.join(lost)} in {store.path} can be used: a class needs images. Repair them, "
            "or remove the folder."
        )


def _first_size(store: ImageStore, names: list[str], skip_unreadable: bool) -> tuple[int, int]:
    for name in names:
        try:
            return image_size(store.read(name))
        except UnreadableImage as error:
            if not skip_unreadable:
                raise _cannot_be_used(store, name, error) from None
    raise DataError(f"none of the {len(names)} images in {store.path} can be used.")


def _cannot_be_used(store: ImageStore, name: str, error: UnreadableImage) -> DataError:
    return DataError(
        f"{store.path / name} cannot be used: {error}. Repair or remove it, or set data.skip_unreadable=true to go on "
        "without it (not where images are streamed); for images of several sizes set data.image_size=[height, width]."
    )
