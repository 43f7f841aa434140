"""Augmentation and normalisation against slow references, one sample at a time in numpy."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from disttrain.data.transform import Augmentation, ImageTransform, apply_symmetry
from disttrain.errors import ConfigError

from ..helpers import data_config

CPU = torch.device("cpu")
EVERY = tuple(itertools.product((False, True), (False, True), (False, True)))
ROTATIONS = {(0, False), (1, False), (2, False), (3, False)}


def build(height: int = 6, width: int = 6, **fields: Any) -> Augmentation:
    return Augmentation.build(data_config(**fields), height, width)


def moved(images: torch.Tensor, ids: torch.Tensor, augmentation: Augmentation, epoch: int | None = 0) -> np.ndarray:
    """What the transform does to pixels, normalisation left out."""
    ones = (1.0,) * images.shape[1]
    transform = ImageTransform((0.0,) * images.shape[1], ones, augmentation, seed=5, device=CPU)
    return transform(images, ids, epoch).numpy()


def places(count: int, height: int = 6, width: int = 6) -> torch.Tensor:
    """uint8 [count, 1, height, width]: images in which every pixel has its own value."""
    return torch.arange(height * width, dtype=torch.uint8).view(1, 1, height, width).repeat(count, 1, 1, 1)


def outcomes(height: int, width: int, shift_px: int) -> dict[bytes, tuple[int, bool, int, int]]:
    """Every (quarter turns, mirrored, down, right) by what numpy makes of `places` with it.

    Shifted first, with `np.pad` reflecting the border, so that none of the implementation's arithmetic is repeated.
    """
    image = places(1, height, width)[0, 0].numpy()
    padded = np.pad(image, shift_px, mode="reflect")
    made: dict[bytes, tuple[int, bool, int, int]] = {}
    shifts = range(-shift_px, shift_px + 1)
    for turns, mirrored, down, right in itertools.product(range(4), (False, True), shifts, shifts):
        window = padded[shift_px + down : shift_px + down + height, shift_px + right : shift_px + right + width]
        result = np.rot90(window[:, ::-1] if mirrored else window, turns)
        made[result.astype(np.float32).tobytes()] = (turns, mirrored, down, right)
    return made


def drawn(
    augmentation: Augmentation, count: int, height: int = 6, width: int = 6
) -> Counter[tuple[int, bool, int, int]]:
    known = outcomes(height, width, augmentation.shift_px)
    results = moved(places(count, height, width), torch.arange(count), augmentation)
    return Counter(known[one[0].tobytes()] for one in results)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"quarter_turns": True, "horizontal_flip": True}, set(itertools.product(range(4), (False, True)))),
        ({"quarter_turns": True, "vertical_flip": True}, set(itertools.product(range(4), (False, True)))),
        ({"quarter_turns": True}, ROTATIONS),
        ({"horizontal_flip": True}, {(0, False), (0, True)}),
        ({"vertical_flip": True}, {(0, False), (2, True)}),
        ({"horizontal_flip": True, "vertical_flip": True}, {(0, False), (0, True), (2, True), (2, False)}),
        ({}, {(0, False)}),
    ],
)
def test_exactly_the_symmetries_asked_for_occur_and_each_as_often(
    fields: dict[str, Any], expected: set[tuple[int, bool]]
) -> None:
    count = 4000
    seen = drawn(build(**fields), count)
    assert {(turns, mirrored) for turns, mirrored, _, _ in seen} == expected
    even = count / len(expected)
    assert all(abs(number - even) < 5 * even**0.5 for number in seen.values())


def test_a_shift_reaches_every_offset_and_reflects_the_border() -> None:
    seen = drawn(build(shift_px=2), 5000)
    assert set(seen) == {(0, False, down, right) for down in range(-2, 3) for right in range(-2, 3)}
    assert max(abs(number - 200) for number in seen.values()) < 5 * 200**0.5


def test_symmetries_and_shifts_are_combined_freely() -> None:
    seen = drawn(build(shift_px=1, quarter_turns=True, horizontal_flip=True), 8000)
    assert len(seen) == 8 * 9
    assert max(abs(number - 8000 / 72) for number in seen.values()) < 5 * (8000 / 72) ** 0.5


def test_images_that_are_not_square_are_flipped_and_shifted_too() -> None:
    seen = drawn(build(6, 9, shift_px=2, horizontal_flip=True, vertical_flip=True), 4000, 6, 9)
    assert len(seen) == 4 * 25


def test_the_largest_shift_still_takes_every_pixel_from_the_image() -> None:
    assert sum(drawn(build(4, 7, shift_px=3), 1000, 4, 7).values()) == 1000  # `drawn` knows no other outcome


def test_all_channels_of_a_sample_move_together() -> None:
    images = places(50).repeat(1, 3, 1, 1)
    result = moved(images, torch.arange(50), build(shift_px=2, quarter_turns=True))
    assert (result[:, 0] == result[:, 1]).all()
    assert (result[:, 0] == result[:, 2]).all()


def test_a_sample_is_augmented_the_same_in_any_batch() -> None:
    images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (64, 3, 6, 6)).astype(np.uint8))
    ids = torch.arange(64) * 7 + 3
    augmentation = build(shift_px=2, quarter_turns=True, vertical_flip=True, zoom=0.3, brightness=0.3, contrast=0.2)
    whole = moved(images, ids, augmentation)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    parts = [moved(images[part], ids[part], augmentation) for part in order.split(5)]
    assert (np.concatenate(parts) == whole[order]).all()


def test_each_epoch_seed_and_sample_has_a_draw_of_its_own() -> None:
    ids, augmentation = torch.arange(200), build(shift_px=2, quarter_turns=True, vertical_flip=True)
    first, again, second = (moved(places(200), ids, augmentation, epoch) for epoch in (0, 0, 1))
    assert (first == again).all()
    assert (first == second).all(axis=(1, 2, 3)).sum() < 20  # 1 in 200 is the same by chance
    other = ImageTransform((0.0,), (1.0,), augmentation, seed=6, device=CPU)(places(200), ids, 0).numpy()
    assert (first == other).all(axis=(1, 2, 3)).sum() < 20


def test_evaluation_is_not_augmented() -> None:
    augmentation = build(shift_px=2, quarter_turns=True, zoom=0.5, brightness=1.0, contrast=0.5)
    assert (moved(places(9), torch.arange(9), augmentation, None) == places(9).numpy()).all()


def test_brightness_and_contrast_change_a_whole_image_within_their_bounds() -> None:
    images = places(3000, 4, 4)
    plain = images.numpy().astype(np.float64)
    result = moved(images, torch.arange(3000), build(4, 4, brightness=0.5, contrast=0.25)).astype(np.float64)
    gain = (result[:, 0, 3, 3] - result[:, 0, 0, 0]) / (plain[:, 0, 3, 3] - plain[:, 0, 0, 0])
    added = result[:, 0, 0, 0]  # where the pixel is 0
    expected = plain * gain[:, None, None, None] + added[:, None, None, None]
    assert np.abs(result - expected).max() < 1e-4
    assert 0.75 - 1e-5 <= gain.min() < 0.76 < 1.24 < gain.max() <= 1.25 + 1e-5
    assert -0.5 <= added.min() < -0.48 < 0.48 < added.max() <= 0.5
    assert abs(np.corrcoef(gain, added)[0, 1]) < 0.1


@pytest.mark.parametrize(("height", "width"), [(7, 10), (20, 20), (1, 2)])
def test_a_zoom_is_a_bilinear_resize_about_the_centre_with_a_reflected_border(height: int, width: int) -> None:
    count, zoom = 400, 0.3
    images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (count, 2, height, width)).astype(np.uint8))
    result = moved(images, torch.arange(count), build(height, width, zoom=zoom))
    # The share that each sample shows, from images that are a ramp along their width: there a resize changes the slope.
    ramp = torch.arange(101, dtype=torch.uint8).repeat(count, 1, 1, 1)
    extents = np.diff(moved(ramp, torch.arange(count), build(1, 101, zoom=zoom))[:, 0, 0, 49:52]).mean(axis=1)
    assert 1 - zoom - 1e-5 <= extents.min() < 0.72 < 1.28 < extents.max() <= 1 + zoom + 1e-5
    for image, share, seen in zip(images.numpy(), extents, result, strict=True):
        rows, columns = (
            np.clip((size - 1) / 2 + share * (np.arange(size) - (size - 1) / 2), 1 - size, 2 * size - 2)
            for size in (height, width)
        )
        padded = np.pad(image, ((0, 0), (height - 1,) * 2, (width - 1,) * 2), mode="reflect").astype(np.float64)
        along = [
            np.interp(columns + width - 1, np.arange(padded.shape[2]), line)
            for line in padded.reshape(-1, padded.shape[2])
        ]
        lines = np.reshape(along, (2, padded.shape[1], width))
        expected = [
            [np.interp(rows + height - 1, np.arange(padded.shape[1]), lines[channel, :, at]) for at in range(width)]
            for channel in range(2)
        ]
        assert np.abs(np.transpose(expected, (0, 2, 1)) - seen).max() < 0.01


def test_normalisation_subtracts_the_mean_and_divides_by_the_deviation_per_channel() -> None:
    images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (8, 3, 5, 5)).astype(np.uint8))
    mean, std = (10.0, 128.5, 200.25), (3.0, 64.0, 1.5)
    result = ImageTransform(mean, std, Augmentation(), 0, CPU)(images, torch.arange(8), 0)
    expected = (images.numpy() - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    assert result.dtype == torch.float32
    assert np.abs(result.numpy() - expected).max() < 1e-4


def test_channels_last_changes_the_memory_order_and_no_value() -> None:
    images = torch.randint(0, 256, (4, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augmentation = build(shift_px=1)
    made = [
        ImageTransform((1.0,) * 3, (2.0,) * 3, augmentation, 0, CPU, channels_last)(images, torch.arange(4), 0)
        for channels_last in (False, True)
    ]
    assert torch.equal(*made)
    assert made[1].is_contiguous(memory_format=torch.channels_last)


def test_the_8_triples_are_the_8_symmetries_of_the_square() -> None:
    known = outcomes(6, 6, 0)
    found = {known[apply_symmetry(places(1).float(), one).contiguous().numpy().tobytes()] for one in EVERY}
    assert len(found) == 8


def test_predictions_are_averaged_over_what_training_saw() -> None:
    known = outcomes(6, 6, 0)
    for fields in ({"quarter_turns": True}, {"vertical_flip": True}, {"quarter_turns": True, "vertical_flip": True}):
        augmentation = build(**fields)
        averaged = {
            known[apply_symmetry(places(1).float(), one).contiguous().numpy().tobytes()]
            for one in augmentation.symmetries
        }
        assert averaged == set(drawn(augmentation, 500))


def test_turns_need_square_images() -> None:
    with pytest.raises(ConfigError, match=r"data\.quarter_turns=true needs square images, and these are 4x5"):
        build(4, 5, quarter_turns=True)


@pytest.mark.parametrize("shift_px", [4, 9])
def test_a_shift_of_the_whole_image_is_refused(shift_px: int) -> None:
    with pytest.raises(ConfigError, match=rf"data\.shift_px={shift_px} is not smaller than the images of 4x6"):
        build(4, 6, shift_px=shift_px)
    assert build(4, 6, shift_px=3).shift_px == 3
