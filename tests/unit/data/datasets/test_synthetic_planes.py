"""The synthetic stand-in for PlanesNet: the same bytes everywhere, PlanesNet's form, and not too easy."""

from __future__ import annotations

import hashlib
import itertools
import re

import numpy as np
import pytest

from disttrain.data.datasets import synthetic_planes
from disttrain.data.datasets.synthetic_planes import CLASS_NAMES, chip_names, draw_chips

# A change of these is a change of the data set that everybody trains on: make it on purpose only.
GOLDEN_IMAGES = "23527d919b3d133189127cab4a9007ecf2edf645c691c04cc25165356bdf3e39"
GOLDEN_REST = "ff9b75704a86fe09c46fdc63efecfa9fdccb6f6f14cdaf7712948cc95fd0e7ef"

Chips = tuple[np.ndarray, np.ndarray, list[str]]


@pytest.fixture(scope="module")
def chips() -> Chips:
    return draw_chips(8000, seed=0)


def test_bytes_are_the_same_on_every_machine() -> None:
    images, labels, scenes = draw_chips(200, seed=7)
    rest = labels.astype("<i8").tobytes() + "\n".join(chip_names(labels, scenes, seed=7)).encode()
    assert hashlib.sha256(images.tobytes()).hexdigest() == GOLDEN_IMAGES
    assert hashlib.sha256(rest).hexdigest() == GOLDEN_REST


def test_shapes_and_types(chips: Chips) -> None:
    images, labels, scenes = chips
    assert (images.shape, images.dtype) == ((8000, 20, 20, 3), np.dtype(np.uint8))
    assert (labels.shape, labels.dtype) == ((8000,), np.dtype(np.int64))
    assert images.flags.c_contiguous
    assert len(scenes) == 8000
    assert set(labels.tolist()) == set(range(len(CLASS_NAMES)))


@pytest.mark.parametrize("seed", [1, 2, 2**40])
def test_a_quarter_are_planes(seed: int) -> None:
    _, labels, _ = draw_chips(8000, seed)
    assert abs(labels.mean() - 0.25) < 0.005


@pytest.mark.parametrize("count", [1, 2, 5, 399, 400])
def test_fewer_chips_are_the_first_of_more(count: int) -> None:
    images, labels, scenes = draw_chips(count, seed=3)
    more_images, more_labels, more_scenes = draw_chips(600, seed=3)
    np.testing.assert_array_equal(images, more_images[:count])
    np.testing.assert_array_equal(labels, more_labels[:count])
    assert scenes == more_scenes[:count]
    assert chip_names(labels, scenes, 3) == chip_names(more_labels, more_scenes, 3)[:count]


def test_block_size_does_not_show_in_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw_chips(500, seed=4)[0]
    monkeypatch.setattr(synthetic_planes, "_BLOCK_CHIPS", 1)
    np.testing.assert_array_equal(draw_chips(500, seed=4)[0], whole)


def test_global_random_state_is_neither_used_nor_changed() -> None:
    np.random.seed(0)
    before = draw_chips(20, seed=5)[0]
    after_drawing = np.random.random_sample()
    np.random.seed(0)
    assert np.random.random_sample() == after_drawing
    np.testing.assert_array_equal(draw_chips(20, seed=5)[0], before)


def test_seeds_differ(chips: Chips) -> None:
    images, labels, scenes = draw_chips(400, seed=1)
    assert not (images == chips[0][:400]).all(axis=(1, 2, 3)).any()
    assert not set(scenes) & set(chips[2])
    assert (labels != chips[1][:400]).any()


def test_numpy_integers_and_any_int_are_seeds() -> None:
    np.testing.assert_array_equal(draw_chips(10, np.int64(6))[0], draw_chips(10, 6)[0])
    assert (draw_chips(10, -1)[0] != draw_chips(10, 2**64 - 1)[0]).any()


def test_scene_ids_have_planesnets_form(chips: Chips) -> None:
    for scene in set(chips[2]):
        assert re.fullmatch(r"20\d{6}_\d{6}_[0-9a-f]{4}", scene)


def test_each_scene_is_one_run_of_chips_of_both_classes(chips: Chips) -> None:
    _, labels, scenes = chips
    runs = [len(list(run)) for _, run in itertools.groupby(scenes)]
    assert len(runs) == len(set(scenes)), "two scenes share an id"
    assert 15 < np.mean(runs) < 28
    assert (min(runs[:-1]), np.median(runs) < np.mean(runs), max(runs) <= 156) == (4, True, True)
    shares = [run.mean() for run in np.split(labels, np.cumsum(runs)[:-1])[:-1]]
    assert 0 < min(shares) < 0.2 < 0.3 < max(shares) <= 0.5


def test_no_chip_is_in_two_scenes(chips: Chips) -> None:
    assert len({image.tobytes() for image in chips[0]}) == len(chips[0])


def test_a_scene_has_a_look_of_its_own(chips: Chips) -> None:
    images, _, scenes = chips
    warmth = images[..., 0].mean(axis=(1, 2)) - images[..., 2].mean(axis=(1, 2))
    big = [scene for scene, run in itertools.groupby(scenes) if len(list(run)) >= 20]
    inside = [warmth[np.array(scenes) == scene] for scene in big]
    chance = np.std(warmth) / np.sqrt(np.mean([len(values) for values in inside]))
    assert np.std([values.mean() for values in inside]) > 1.5 * chance


def test_names_have_planesnets_form_and_are_unique(chips: Chips) -> None:
    _, labels, scenes = chips
    names = chip_names(labels, scenes, seed=0)
    assert len(set(names)) == len(names) == 8000
    for name, label, scene in zip(names, labels, scenes, strict=True):
        found = re.fullmatch(r"([01])__(\d{8}_\d{6}_[0-9a-f]{4})__(-?\d+\.\d+)_(-?\d+\.\d+)\.png", name)
        assert found is not None, name
        assert (int(found[1]), found[2]) == (label, scene)
        assert -122.5 < float(found[3]) < -121.4
        assert 37.3 < float(found[4]) < 38.4


def test_a_linear_model_is_not_enough(chips: Chips) -> None:
    images, labels, scenes = chips
    digests = [hashlib.sha256(scene.encode()).digest()[:8] for scene in scenes]
    test = np.array([int.from_bytes(digest, "big") / 2**64 < 0.15 for digest in digests])
    pixels = images.reshape(len(images), -1).astype(np.float64)
    pixels = (pixels - pixels[~test].mean(axis=0)) / pixels[~test].std(axis=0)
    x, sign = pixels[~test], 2.0 * labels[~test] - 1.0
    weights = np.linalg.solve(x.T @ x + 300.0 * np.eye(x.shape[1]), x.T @ (sign - sign.mean()))
    # The threshold that serves it best on the test chips: an upper bound on what the weights can do.
    scores, planes = pixels[test] @ weights, labels[test] == 1
    best = max(((scores > cut) == planes).mean() for cut in np.quantile(scores, np.linspace(0.5, 1.0, 101)))
    assert 0.78 < best < 0.90


@pytest.mark.parametrize("count", [0, -3])
def test_no_chips_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"count={count} .*Use count >= 1"):
        draw_chips(count, seed=0)


def test_names_need_a_scene_for_each_label() -> None:
    with pytest.raises(ValueError, match="2 labels but 1 scenes"):
        chip_names([0, 1], ["20160101_180000_0000"], seed=0)
