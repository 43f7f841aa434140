"""Which samples are for training and which for judging: fixed by hashes, so that new data moves no old sample."""

from __future__ import annotations

import hashlib

import numpy as np

from disttrain.config.sections import DataConfig
from disttrain.data.base import ImageArrays
from disttrain.errors import ConfigError, DataError

Splits = dict[str, np.ndarray]
"""int64 ids of `train`, `val` and `test`, each sample in one of them."""


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on nothing but the text: the first 8 bytes of its sha256 over 2^64."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:8], "big") / 2**64


def sample_fractions(count: int) -> np.ndarray:
    """A fixed number in [0, 1) per sample, float64 [count]; more samples do not move the earlier ones."""
    return np.random.RandomState(20180101).random_sample(count)


def assign_splits(fractions: np.ndarray, test_fraction: float, val_fraction: float) -> Splits:
    """Splits by place in [0, 1): the lowest are test, the next val, the rest train."""
    held_out = test_fraction + val_fraction
    return {
        "train": np.flatnonzero(fractions >= held_out),
        "val": np.flatnonzero((fractions >= test_fraction) & (fractions < held_out)),
        "test": np.flatnonzero(fractions < test_fraction),
    }


def build_splits(data: DataConfig, arrays: ImageArrays) -> Splits:
    """The split that the config asks for. Raises ConfigError for one that the dataset cannot have."""
    kind = data.split
    if kind == "auto":
        kind = "scene" if arrays.scenes is not None else "official" if arrays.is_test is not None else "random"
    if kind == "scene":
        if arrays.scenes is None:
            raise ConfigError(f"data.split=scene: {data.name} has no scene ids. Use random or official.")
        fractions = np.array([unit_hash(scene) for scene in arrays.scene_names])[arrays.scenes]
        return assign_splits(fractions, data.test_fraction, data.val_fraction)
    if kind == "official":
        if arrays.is_test is None:
            raise ConfigError(f"data.split=official: {data.name} has no published split. Use scene or random.")
        if arrays.is_val is not None:
            train = ~(arrays.is_test | arrays.is_val)
            return {
                "train": np.flatnonzero(train), "val": np.flatnonzero(arrays.is_val),
                "test": np.flatnonzero(arrays.is_test),
            }  # fmt: skip
        fractions = np.where(arrays.is_test, -1.0, sample_fractions(len(arrays)))
        return assign_splits(fractions, 0.0, data.val_fraction)
    return assign_splits(sample_fractions(len(arrays)), data.test_fraction, data.val_fraction)


def check_training_split(data: DataConfig, labels: np.ndarray, class_names: tuple[str, ...], train: np.ndarray) -> None:
    """Raise DataError where there is nothing to learn from: no training samples, or all of one class."""
    if len(train) == 0:
        raise DataError(
            f"the training split of {data.name} ({data.path}) is empty: all {len(labels)} samples fall into test or "
            "val. Use more data, or smaller data.test_fraction and data.val_fraction."
        )
    present = np.unique(labels[train])
    if len(present) < 2:
        raise DataError(
            f"all {len(train)} training samples of {data.name} ({data.path}) are {class_names[present[0]]!r}: a "
            "classifier needs at least two classes. Check the labels, or use more data."
        )
