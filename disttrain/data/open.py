"""Config -> `Dataset`: picks the reader, fixes the split, checks what came back."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Subset

from disttrain.config.sections import DataConfig
from disttrain.config.user_code import import_object
from disttrain.data.base import Dataset, ImageArrays, MapDataset
from disttrain.data.sample_contract import check_class_names, check_same_classes
from disttrain.data.split import assign_splits, build_splits, sample_fractions
from disttrain.data.statistics import check_channels_first
from disttrain.errors import ConfigError, DataError, unknown_name
from disttrain.files import expand_home, is_url

DATASETS = ("planesnet", "mnist", "image_folder", "synthetic_planes")


def open_dataset(data: DataConfig, verify: bool = True) -> Dataset:
    """The dataset that the config names, with its split.

    Args:
        verify: check decoded images on disk against their sha256 first (one rank of a node is enough).
    Raises DataError (missing, damaged, empty or mislabelled data) or ConfigError (unknown name, impossible split).
    """
    if ":" in data.name:
        return _open_user_dataset(data)
    if data.name == "planesnet":
        from disttrain.data.datasets.planesnet import open_planesnet

        return _from_arrays(data, *open_planesnet(data, verify))
    if data.name == "mnist":
        from disttrain.data.datasets.mnist import open_mnist

        return _from_arrays(data, *open_mnist(data, verify))
    if data.name == "synthetic_planes":
        from disttrain.data.datasets.synthetic import open_synthetic_planes

        return _from_arrays(data, *open_synthetic_planes(data, verify))
    if data.name == "image_folder":
        from disttrain.data.datasets.image_folder import open_image_folder

        samples, table, fingerprint = open_image_folder(data, verify)
        if isinstance(samples, ImageArrays):
            return _from_arrays(data, samples, fingerprint)
        resize = data.image_size is not None
        return Dataset(samples, build_splits(data, table), table.class_names, "", table.labels, resize)
    raise ConfigError(f"data.name: {unknown_name('dataset', data.name, DATASETS)} Your own: package.module:function.")


def _from_arrays(data: DataConfig, arrays: ImageArrays, fingerprint: str) -> Dataset:
    _check_labels(data.name, arrays)
    splits = build_splits(data, arrays)
    digest = hashlib.sha256(fingerprint.encode())
    for name in sorted(splits):
        digest.update(name.encode() + splits[name].tobytes())
    resize = data.image_size is not None
    return Dataset(arrays, splits, arrays.class_names, digest.hexdigest(), arrays.labels, resize)


def _check_labels(name: str, arrays: ImageArrays) -> None:
    if len(arrays) == 0:
        raise DataError(f"{name} holds no samples.")
    low, high, classes = int(arrays.labels.min()), int(arrays.labels.max()), len(arrays.class_names)
    if low < 0 or high >= classes:
        raise DataError(
            f"{name} has labels from {low} to {high}, out of range: with {classes} classes 0 to {classes - 1}."
        )
    if arrays.images.dtype != np.uint8 or arrays.images.ndim != 4 or len(arrays.images) != len(arrays.labels):
        raise DataError(
            f"{name} has images {arrays.images.dtype} {arrays.images.shape} for {len(arrays.labels)} labels: "
            "expected uint8 [n, channels, height, width] with one label each."
        )
    check_channels_first(arrays.images.shape[1:])


def _open_user_dataset(data: DataConfig) -> Dataset:
    """`package.module:function(path=..., **kwargs)` may return ImageArrays, a map-style dataset, or (train, test)."""
    function = import_object(data.name, "data.name")
    path = data.path if data.path is None or is_url(data.path) else expand_home(data.path)
    arguments = {**({} if path is None else {"path": path}), **data.kwargs}
    try:
        made = function(**arguments)
    except Exception as error:
        raise DataError(
            f"data.name={data.name} raised {type(error).__name__}: {error} (called with {arguments})."
        ) from error
    if isinstance(made, ImageArrays):
        made = _plain_arrays(data.name, made)
        return _from_arrays(data, made, hashlib.sha256(made.images.tobytes() + made.labels.tobytes()).hexdigest())
    train, test = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    return dataset_from_maps(train, test, data, what=f"data.name={data.name}")


def _plain_arrays(name: str, arrays: ImageArrays) -> ImageArrays:
    """A user's arrays with int64 labels. Raises DataError where they are no labels or no arrays."""
    labels = np.asarray(arrays.labels)
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not isinstance(arrays.images, np.ndarray):
        raise DataError(
            f"data.name={name} gave ImageArrays with labels {labels.dtype} {list(labels.shape)} and images of type "
            f"{type(arrays.images).__name__}: expected whole numbers [n] and uint8 [n, channels, height, width]."
        )
    return dataclasses.replace(
        arrays,
        labels=labels.astype(np.int64, copy=False),
        class_names=check_class_names(arrays.class_names, f"data.name={name}"),
    )


def dataset_from_maps(train: Any, test: Any | None, data: DataConfig, what: str = "dataset") -> Dataset:
    """The user's own map-style datasets as one: `test` is held out as given, else by `data.test_fraction`."""
    for dataset in (train, test):
        if dataset is not None and not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise DataError(
                f"{what} gave a {type(dataset).__name__}: expected a map-style dataset, one with __len__ and "
                "__getitem__ whose items are (input, target)."
            )
    try:
        count, test_count = len(train), 0 if test is None else len(test)
    except Exception as error:
        raise DataError(f"{what}: len() of the dataset raised {type(error).__name__}: {error}.") from error
    if count == 0:
        raise DataError(f"{what} is empty: training needs samples.")
    if test is not None and test_count == 0:
        raise DataError(f"{what}: the test data is empty. Leave it out, or give it samples.")
    class_names = check_class_names(_classes_of(train, what), what)
    if test is not None:
        check_same_classes(class_names, check_class_names(_classes_of(test, what), f"{what}, the test data,"), what)
    splits = assign_splits(
        sample_fractions(len(train)), 0.0 if test is not None else data.test_fraction, data.val_fraction
    )
    if len(splits["train"]) == 0:
        raise DataError(f"{what} has {len(train)} samples, and all fall into test or val: training needs samples.")
    if test is None:
        return Dataset(train, splits, class_names, "")
    splits["test"] = np.arange(len(train), len(train) + len(test))
    return Dataset(_Joined(train, test), splits, class_names, "")


def _classes_of(dataset: Any, what: str) -> Any:
    """The attribute `classes`; of torch's Subset and ConcatDataset that of the datasets within. Raises DataError."""
    found = getattr(dataset, "classes", None)
    if found is None and isinstance(dataset, Subset):
        return _classes_of(dataset.dataset, what)
    if found is None and isinstance(dataset, ConcatDataset):
        parts = [check_class_names(_classes_of(part, what), what) for part in dataset.datasets]
        for part in parts[1:]:
            if part != parts[0]:
                raise DataError(
                    f"{what} joins datasets with the classes {', '.join(parts[0]) or '(none)'} and "
                    f"{', '.join(part) or '(none)'}: the same number would mean another class. Give all the same list."
                )
        return parts[0] or None
    return found


class _Joined:
    """Two map-style datasets one after the other."""

    def __init__(self, first: MapDataset, second: MapDataset) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Any:
        return self.first[index] if index < len(self.first) else self.second[index - len(self.first)]
