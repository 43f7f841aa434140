"""From the config to a dataset: the user's own by import path, checked; and the names that there are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from disttrain.data.base import Dataset, ImageArrays
from disttrain.data.open import dataset_from_maps, open_dataset
from disttrain.errors import ConfigError, DataError

from ..helpers import data_config, not_none

Write = Callable[[str], str]

ARRAYS = """
    import numpy as np
    from disttrain.data.base import ImageArrays
    def make(path=None, count=40, **others):
        images = np.random.RandomState(0).randint(0, 256, (count, 3, 4, 4)).astype(np.uint8)
        return ImageArrays(images, np.arange(count) % 2, ("a", "b"), **others)
"""
MAPS = """
    class Items:
        classes = ["a", "b"]
        def __init__(self, count):
            self.count = count
        def __len__(self):
            return self.count
        def __getitem__(self, index):
            return float(index), index % 2
    def one(path=None):
        return Items(50)
    def pair():
        return Items(50), Items(7)
    def empty():
        return Items(0)
    def number():
        return 5
    def raising(path, level):
        raise RuntimeError("no such server")
    def generator():
        yield 1
"""


def opened(name: str, **fields: Any) -> Dataset:
    return open_dataset(data_config(name=name, **fields))


def test_a_function_may_return_image_arrays(user_module: Write) -> None:
    name = user_module(ARRAYS)
    dataset = opened(f"{name}:make", kwargs={"count": 60})
    assert isinstance(dataset.samples, ImageArrays)
    assert len(dataset.samples) == 60
    assert dataset.class_names == ("a", "b")
    assert np.array_equal(np.sort(np.concatenate(list(dataset.splits.values()))), np.arange(60))


def test_the_fingerprint_changes_with_data_and_split(user_module: Write) -> None:
    name = user_module(ARRAYS)
    prints = [
        opened(f"{name}:make").fingerprint,
        opened(f"{name}:make", kwargs={"count": 41}).fingerprint,
        opened(f"{name}:make", test_fraction=0.4).fingerprint,
    ]
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in prints)
    assert len(set(prints)) == 3
    assert opened(f"{name}:make").fingerprint == prints[0]


def test_a_function_may_return_a_map_style_dataset(user_module: Write) -> None:
    dataset = opened(f"{user_module(MAPS)}:one", test_fraction=0.2, val_fraction=0.2)
    assert np.array_equal(np.sort(np.concatenate(list(dataset.splits.values()))), np.arange(50))
    assert min(map(len, dataset.splits.values())) >= 3
    assert not isinstance(dataset.samples, ImageArrays)
    assert (dataset.class_names, dataset.samples[3]) == (("a", "b"), (3.0, 1))


def test_a_function_may_return_training_and_test_data(user_module: Write) -> None:
    dataset = opened(f"{user_module(MAPS)}:pair", test_fraction=0.9, val_fraction=0.05)
    assert dataset.splits["test"].tolist() == list(range(50, 57))
    assert np.array_equal(np.sort(np.concatenate([dataset.splits["train"], dataset.splits["val"]])), np.arange(50))
    assert len(dataset.samples) == 57
    assert not isinstance(dataset.samples, ImageArrays)
    assert [dataset.samples[k][0] for k in (0, 49, 50, 56)] == [0.0, 49.0, 0.0, 6.0]


def test_a_function_that_raises_is_named_with_its_error_and_arguments(user_module: Write) -> None:
    name = user_module(MAPS)
    with pytest.raises(DataError) as error:
        opened(f"{name}:raising", path="/data", kwargs={"level": 3})
    assert f"data.name={name}:raising raised RuntimeError: no such server" in str(error.value)
    assert "{'path': '/data', 'level': 3}" in str(error.value)
    with pytest.raises(DataError, match=r"raised TypeError: .*unexpected keyword argument 'lvel'"):
        opened(f"{name}:raising", path="/data", kwargs={"lvel": 3})


@pytest.mark.parametrize("function", ["number", "generator"])
def test_what_is_no_dataset_is_refused(user_module: Write, function: str) -> None:
    with pytest.raises(DataError, match="expected a map-style dataset, one with __len__ and __getitem__"):
        opened(f"{user_module(MAPS)}:{function}")


def test_an_empty_dataset_is_refused(user_module: Write) -> None:
    with pytest.raises(DataError, match="is empty: training needs samples"):
        opened(f"{user_module(MAPS)}:empty")


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    one = TensorDataset(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(DataError, match="has 1 samples, and all fall into test or val"):
        dataset_from_maps(one, None, data_config(test_fraction=0.99))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("images=images.astype(np.float32)", "has images float32"),
        ("images=images[:, 0]", r"has images uint8 \(4, 2, 2\)"),
        ("images=images[:3]", "for 4 labels"),
        ("labels=np.array([0, 1, 2, 0])", "has labels from 0 to 2, out of range: with 2 classes 0 to 1"),
        ("labels=np.array([0, 1, -1, 0])", "has labels from -1 to 1, out of range"),
        ("labels=np.array([], np.int64)", "holds no samples"),
    ],
)
def test_arrays_that_are_wrong_are_refused(user_module: Write, change: str, expected: str) -> None:
    name = user_module(f"""
        import dataclasses
        import numpy as np
        from disttrain.data.base import ImageArrays
        def make():
            images, labels = np.zeros((4, 3, 2, 2), np.uint8), np.array([0, 1, 0, 1])
            return dataclasses.replace(ImageArrays(images, labels, ("a", "b")), {change})
    """)
    with pytest.raises(DataError, match=expected):
        opened(f"{name}:make")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("planesnt", "unknown dataset 'planesnt'. Did you mean 'planesnet'?"),
        ("imagenet", "Your own: package.module:function."),
        ("no_such_module_anywhere:make", "there is no module 'no_such_module_anywhere'"),
        ("json:lods", "Did you mean 'loads'?"),
        (":make", "is not of the form package.module:function"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        opened(name)
    assert expected in str(error.value)


def test_drawn_planes_are_a_dataset_split_by_scene(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"cache_dir": str(tmp_path), "kwargs": {"count": 300, "seed": 3}}
    dataset = opened("synthetic_planes", **fields)
    assert isinstance(dataset.samples, ImageArrays)
    assert dataset.samples.images.shape == (300, 3, 20, 20)
    scenes = not_none(dataset.samples.scenes)
    assert not set(scenes[dataset.splits["train"]]) & set(scenes[dataset.splits["test"]])
    assert opened("synthetic_planes", **fields).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("kwargs", [{"cuont": 5}, {"count": "5"}, {"count": 0}, {"count": 2.0}, {"seed": True}])
def test_wrong_settings_of_drawn_planes_are_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="synthetic_planes takes count"):
        opened("synthetic_planes", kwargs=kwargs)


def test_a_path_for_drawn_planes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.path=/x has no effect on synthetic_planes"):
        opened("synthetic_planes", path="/x")
