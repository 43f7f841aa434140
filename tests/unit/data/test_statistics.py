"""Mean and standard deviation: exact, and of the training split alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from disttrain.data.base import Dataset, ImageArrays
from disttrain.data.statistics import as_image, channel_statistics


def dataset_of(images: np.ndarray, train: np.ndarray) -> Dataset:
    arrays = ImageArrays(images, np.zeros(len(images), np.int64), ("a",))
    return Dataset(arrays, {"train": train, "val": train[:0], "test": train[:0]}, ("a",), "")


@pytest.mark.parametrize("count", [1, 37, 9000])
def test_they_are_those_of_the_training_split_per_channel(count: int) -> None:
    images = np.random.RandomState(0).randint(0, 256, (count + 100, 3, 4, 5)).astype(np.uint8)
    images[:, 1] //= 7
    images[count:] = 255  # held out: must not show
    mean, std = channel_statistics(dataset_of(images, np.arange(count)))
    train = images[:count].astype(np.float64)
    assert np.allclose(mean, train.mean(axis=(0, 2, 3)), rtol=1e-12)
    assert np.allclose(std, train.std(axis=(0, 2, 3)), rtol=1e-9)


def test_they_do_not_depend_on_the_order_of_samples() -> None:
    images = np.random.RandomState(1).randint(0, 256, (500, 3, 4, 4)).astype(np.uint8)
    ids = np.arange(500)
    assert channel_statistics(dataset_of(images, ids)) == channel_statistics(dataset_of(images, ids[::-1].copy()))


def test_a_channel_without_variation_has_deviation_1() -> None:
    images = np.full((10, 2, 3, 3), 7, np.uint8)
    assert channel_statistics(dataset_of(images, np.arange(10))) == ((7.0, 7.0), (1.0, 1.0))


def test_only_uint8_images_channels_first_count_as_images() -> None:
    assert as_image(np.zeros((3, 4, 4), np.uint8)) is not None
    assert as_image(torch.zeros(3, 4, 4, dtype=torch.uint8)) is not None
    for other in (np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4)), torch.zeros(3, 4, 4), "text", 5, [[1]]):
        assert as_image(other) is None
