"""Which samples are held out: whole scenes, fixed by hashes, so that new data moves no old sample."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from disttrain.data.base import ImageArrays
from disttrain.data.split import assign_splits, build_splits, check_training_split, sample_fractions, unit_hash
from disttrain.errors import ConfigError, DataError

from ..helpers import data_config, not_none


def arrays(count: int, scenes: int | None = None, test: int | None = None) -> ImageArrays:
    labels = np.arange(count, dtype=np.int64) % 2
    return ImageArrays(
        np.zeros((count, 3, 1, 1), np.uint8),
        labels,
        ("a", "b"),
        None if scenes is None else np.arange(count, dtype=np.int64) % scenes,
        () if scenes is None else tuple(f"scene-{k}" for k in range(scenes)),
        None if test is None else np.arange(count) >= count - test,
    )


def assert_partition(splits: dict[str, np.ndarray], count: int) -> None:
    assert np.array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(count))
    assert all(ids.dtype == np.int64 for ids in splits.values())


@pytest.mark.parametrize("kind", ["scene", "random", "official", "auto"])
def test_every_sample_is_in_one_split(kind: str) -> None:
    data = data_config(split=kind, test_fraction=0.2, val_fraction=0.1)
    splits = build_splits(data, arrays(500, scenes=50, test=60))
    assert_partition(splits, 500)
    assert min(map(len, splits.values())) > 10


def test_no_scene_is_on_two_sides() -> None:
    data = data_config(split="scene", test_fraction=0.3, val_fraction=0.3)
    made = arrays(400, scenes=40)
    splits = build_splits(data, made)
    sides = [set(not_none(made.scenes)[ids].tolist()) for ids in splits.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 40


def test_a_scene_is_placed_by_the_sha256_of_its_name() -> None:
    assert unit_hash("scene-1") == int(hashlib.sha256(b"scene-1").hexdigest()[:16], 16) / 2**64
    made = arrays(40, scenes=40)
    test = build_splits(data_config(split="scene", test_fraction=0.25), made)["test"]
    assert [made.scene_names[k] for k in test] == [name for name in made.scene_names if unit_hash(name) < 0.25]


def test_more_scenes_or_samples_move_no_earlier_one() -> None:
    small, large = arrays(100, scenes=20), arrays(300, scenes=60)
    for kind in ("scene", "random"):
        data = data_config(split=kind, test_fraction=0.3, val_fraction=0.1)
        sides = [
            {(made.scene_names[scenes[k]], k)[kind == "random"]: side for side, ids in parts.items() for k in ids}
            for made, parts in ((small, build_splits(data, small)), (large, build_splits(data, large)))
            for scenes in [not_none(made.scenes)]
        ]
        assert sides[0].items() <= sides[1].items()


def test_a_larger_fraction_only_adds_to_what_is_held_out() -> None:
    fractions = sample_fractions(1000)
    some, more = assign_splits(fractions, 0.1, 0.0), assign_splits(fractions, 0.2, 0.1)
    assert set(some["test"]) < set(more["test"])
    assert set(more["train"]) < set(some["train"])
    assert abs(len(more["test"]) - 200) < 60
    assert abs(len(more["val"]) - 100) < 50


def test_random_places_are_the_ones_they_always_were() -> None:
    digest = hashlib.sha256(sample_fractions(1000).astype("<f8").tobytes()).hexdigest()
    assert digest == "f674af4fcb8a80471326798cb0c03b8e1f2707cf75c9ee22fb4f1cbb1509cec6"


def test_auto_takes_scenes_then_the_published_split_then_random() -> None:
    data = data_config(split="auto", test_fraction=0.3)

    def same(made: ImageArrays, kind: str) -> bool:
        other = build_splits(data_config(split=kind, test_fraction=0.3), made)
        return all(np.array_equal(ids, other[side]) for side, ids in build_splits(data, made).items())

    assert same(arrays(200, scenes=20, test=30), "scene")
    assert same(arrays(200, test=30), "official")
    assert same(arrays(200), "random")


def test_the_published_split_takes_validation_from_training_alone() -> None:
    splits = build_splits(data_config(split="official", test_fraction=0.9, val_fraction=0.2), arrays(500, test=100))
    assert np.array_equal(splits["test"], np.arange(400, 500))
    assert 40 < len(splits["val"]) < 120
    assert_partition(splits, 500)


@pytest.mark.parametrize(("kind", "lacks"), [("scene", "has no scene ids"), ("official", "has no published split")])
def test_a_split_that_the_data_cannot_have_is_refused(kind: str, lacks: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.split={kind}: .* {lacks}\. Use "):
        build_splits(data_config(split=kind), arrays(10))


def test_a_training_split_without_samples_is_refused() -> None:
    with pytest.raises(DataError, match="is empty: all 10 samples fall into test or val"):
        check_training_split(data_config(), np.zeros(10, np.int64), ("a", "b"), np.array([], np.int64))


def test_a_training_split_of_one_class_is_refused() -> None:
    labels = np.array([0, 1, 1, 1])
    with pytest.raises(DataError, match=r"all 3 training samples of .* are 'b': a classifier needs at least two"):
        check_training_split(data_config(), labels, ("a", "b"), np.array([1, 2, 3]))
    check_training_split(data_config(), labels, ("a", "b"), np.array([0, 3]))
