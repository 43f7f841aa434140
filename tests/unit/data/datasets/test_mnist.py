"""MNIST's IDX files, gzipped or not, and the ways in which they are damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from disttrain.data.base import ImageArrays
from disttrain.data.datasets.mnist import open_mnist
from disttrain.errors import DataError

from ...helpers import data_config, gzipped, idx, mnist_files, not_none, write_folder

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = mnist_files()


def opened(files: dict[str, bytes], tmp_path: Path) -> ImageArrays:
    folder = write_folder(tmp_path / "mnist", files)
    return open_mnist(data_config(folder, name="mnist", cache_dir=str(tmp_path / "cache")), verify=True)[0]


def refused(files: dict[str, bytes], tmp_path: Path) -> str:
    with pytest.raises(DataError) as error:
        opened(files, tmp_path)
    return str(error.value)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("below", ["", "MNIST/raw/", "raw/"])
def test_the_four_files_are_read_where_torchvision_and_people_put_them(
    tmp_path: Path, compressed: bool, below: str
) -> None:
    files = mnist_files(train=12, test=5)
    stored = gzipped(files) if compressed else files
    arrays = opened({below + name: content for name, content in stored.items()}, tmp_path)
    assert arrays.images.shape == (17, 1, 28, 28)
    expected = np.frombuffer(files[TRAIN_IMAGES][16:] + files[TEST_IMAGES][16:], np.uint8).reshape(-1, 1, 28, 28)
    assert np.array_equal(arrays.images, expected)
    assert arrays.labels.tolist() == [*(k % 10 for k in range(12)), *range(5)]
    assert arrays.labels.dtype == np.int64
    assert not_none(arrays.is_test).tolist() == [False] * 12 + [True] * 5
    assert arrays.class_names == tuple("0123456789")


@pytest.mark.parametrize("name", mnist_files())
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    files = mnist_files()
    del files[name]
    assert f"has no {name} or {name}.gz" in refused(files, tmp_path)


@pytest.mark.parametrize("kept", [0, 2, 3, 4, 6, 10, 15, 16, 17, 3000])
def test_a_file_that_is_cut_short_is_told_wherever_it_was_cut(tmp_path: Path, kept: int) -> None:
    files = mnist_files()
    files[TRAIN_IMAGES] = files[TRAIN_IMAGES][:kept]
    message = refused(files, tmp_path)
    assert TRAIN_IMAGES in message
    assert ("is cut short" in message) or (kept < 4 and "is not an IDX file" in message)


def test_bytes_too_many_are_told(tmp_path: Path) -> None:
    files = mnist_files()
    files[TEST_LABELS] += b"\0"
    assert TEST_LABELS in refused(files, tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 12, -20, -4])
def test_a_gzip_that_is_cut_short_is_told(tmp_path: Path, kept: int) -> None:
    files = gzipped(mnist_files())
    files[f"{TRAIN_IMAGES}.gz"] = files[f"{TRAIN_IMAGES}.gz"][:kept]
    assert f"{TRAIN_IMAGES}.gz" in refused(files, tmp_path)


def test_a_gzip_that_is_damaged_inside_is_told(tmp_path: Path) -> None:
    files = gzipped(mnist_files())
    content = bytearray(files[f"{TRAIN_IMAGES}.gz"])
    content[len(content) // 2] ^= 0xFF
    files[f"{TRAIN_IMAGES}.gz"] = bytes(content)
    assert "is damaged" in refused(files, tmp_path)


@pytest.mark.parametrize("start", [b"\x89PNG", b"\0\0\x0d\x03", b"<htm"])
def test_another_format_is_told_by_its_first_bytes(tmp_path: Path, start: bytes) -> None:
    files = mnist_files()
    files[TEST_IMAGES] = start + files[TEST_IMAGES][4:]
    assert f"begins with {start!r}" in refused(files, tmp_path)


def test_counts_that_do_not_match_are_told(tmp_path: Path) -> None:
    files = mnist_files(train=12)
    files[TRAIN_LABELS] = idx(np.zeros(11))
    assert "(12, 28, 28) images for (11,) labels: they do not match" in refused(files, tmp_path)


def test_files_that_were_mixed_up_are_told(tmp_path: Path) -> None:
    files = mnist_files()
    files[TRAIN_IMAGES], files[TRAIN_LABELS] = files[TRAIN_LABELS], files[TRAIN_IMAGES]
    assert "they do not match" in refused(files, tmp_path)


def test_images_of_two_sizes_are_told(tmp_path: Path) -> None:
    files = mnist_files(test=5)
    files[TEST_IMAGES] = idx(np.zeros((5, 27, 27)))
    assert "they do not match" in refused(files, tmp_path)


def test_labels_out_of_range_are_told(tmp_path: Path) -> None:
    files = mnist_files(train=12)
    files[TRAIN_LABELS] = idx(np.full(12, 10))
    assert "has label 10, out of range: MNIST labels are 0 to 9" in refused(files, tmp_path)


def test_a_plain_file_goes_before_its_gzip(tmp_path: Path) -> None:
    files = mnist_files()
    damaged = {f"{name}.gz": gzip.compress(b"other") for name in files}
    assert len(opened({**files, **damaged}, tmp_path)) == 17
