"""Image folders: classes by folder, any size, decoded beforehand or streamed with the same pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from disttrain.data.base import Dataset, ImageArrays
from disttrain.data.open import open_dataset
from disttrain.data.pipeline import EvalPipeline, build_samples
from disttrain.data.statistics import channel_statistics
from disttrain.errors import DataError

from ...helpers import data_config, image_arrays, not_none, png, random_image, write_folder, write_zip

CPU = torch.device("cpu")


def tree(count: int = 8, sizes: tuple[tuple[int, int], ...] = ((12, 10),), below: str = "") -> dict[str, bytes]:
    return {
        f"{below}{('cat', 'dog')[k % 2]}/{k:02d}.png": png(random_image(k, *sizes[k % len(sizes)]))
        for k in range(count)
    }


def opened(path: Path, **fields: Any) -> Dataset:
    return open_dataset(data_config(path, name="image_folder", **fields))


def refused(path: Path, **fields: Any) -> str:
    with pytest.raises(DataError) as error:
        opened(path, **fields)
    return str(error.value)


def every_pixel(dataset: Dataset, **fields: Any) -> tuple[torch.Tensor, torch.Tensor]:
    samples = build_samples(dataset, data_config(**fields), None, CPU, 0)
    ids = np.sort(np.concatenate(list(dataset.splits.values())))
    batches = list(EvalPipeline(samples, ids, 3, 0, 1))
    return torch.cat([batch.inputs for batch in batches]), torch.cat([batch.targets for batch in batches])


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_folders_are_classes_in_sorted_order(tmp_path: Path, kind: str) -> None:
    source = write_folder(tmp_path / "r", tree()) if kind == "folder" else write_zip(tmp_path / "r.zip", tree())
    dataset = opened(source)
    assert isinstance(dataset.samples, ImageArrays)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.samples.images.shape == (8, 3, 12, 10)
    names = sorted(tree())
    for row, name in enumerate(names):
        assert not_none(dataset.labels)[row] == ("cat", "dog").index(name.split("/")[0])
        seed = int(name[-6:-4])
        assert np.array_equal(dataset.samples.images[row], random_image(seed, 12, 10).transpose(2, 0, 1))


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders_are_a_published_split(tmp_path: Path, held_out: str) -> None:
    files = {**tree(8, below="train/"), **tree(4, below=f"{held_out}/")}
    dataset = opened(write_folder(tmp_path / "root", files))
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.splits["train"]), len(dataset.splits["test"])) == (8, 4)
    names = sorted(files)
    assert all(names[k].startswith(held_out) for k in dataset.splits["test"])


def test_other_folders_beside_train_are_classes(tmp_path: Path) -> None:
    files = {f"{name}/{k}.png": png(random_image(k)) for name in ("train", "tram") for k in range(3)}
    assert opened(write_folder(tmp_path / "root", files)).class_names == ("train", "tram")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("image_size", [None, [9, 7]])
def test_streamed_images_have_the_pixels_of_decoded_ones(
    tmp_path: Path, workers: int, kind: str, image_size: list[int] | None
) -> None:
    files = tree(40, sizes=((12, 10),) if image_size is None else ((12, 10), (30, 5), (9, 7)))
    source = write_folder(tmp_path / "r", files) if kind == "folder" else write_zip(tmp_path / "r.zip", files)
    fields: dict[str, Any] = {"image_size": image_size, "loader_workers": workers}
    streamed = opened(source, placement="stream", **fields)
    assert not isinstance(streamed.samples, ImageArrays)
    decoded = opened(source, **fields)
    inputs, targets = every_pixel(streamed, placement="stream", **fields)
    assert np.array_equal(inputs.numpy(), image_arrays(decoded).images)
    assert np.array_equal(targets.numpy(), not_none(decoded.labels))
    assert {side: ids.tolist() for side, ids in streamed.splits.items()} == {
        side: ids.tolist() for side, ids in decoded.splits.items()
    }


def test_images_beyond_the_budget_are_streamed(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "root", tree(4, sizes=((400, 300),)))  # 1.4 MiB decoded
    assert isinstance(opened(source).samples, ImageArrays)
    assert not isinstance(opened(source, device_budget_mib=1).samples, ImageArrays)
    assert isinstance(opened(source, device_budget_mib=1, placement="device").samples, ImageArrays)


def test_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "root", tree(4, sizes=((12, 10), (10, 12))))
    assert "is 12x10 pixels, expected 10x12" in refused(source)
    assert image_arrays(opened(source, image_size=[5, 6])).images.shape == (4, 3, 5, 6)


def test_an_image_in_no_class_folder_is_named(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "root", {**tree(), "loose.png": png(random_image(0))})
    assert "loose.png is in no class folder (1 such images). image_folder is root/class/image.png" in refused(source)
    split = write_folder(tmp_path / "split", {**tree(below="train/"), "test/loose.png": png(random_image(0))})
    assert "test/loose.png is in no class folder" in refused(split)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert "holds no images. image_folder is root/class/image.png" in refused(tmp_path / "empty")


@pytest.mark.parametrize("broken", ["cat/00.png", "dog/01.png"])
def test_a_broken_image_is_named_or_left_out(tmp_path: Path, broken: str) -> None:
    source = write_folder(tmp_path / "root", {**tree(8), broken: b"no image"})
    message = refused(source)
    assert broken in message
    assert "not an image" in message
    dataset = opened(source, skip_unreadable=True)
    assert len(dataset.samples) == 7
    assert not_none(dataset.labels).tolist() == ([0] * 3 + [1] * 4 if broken.startswith("cat") else [0] * 4 + [1] * 3)


def test_a_folder_of_nothing_but_broken_images_is_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "root", {"cat/1.png": b"", "dog/1.png": b"no image"})
    assert "none of the 2 images" in refused(source, skip_unreadable=True)
    assert "none of the 2 images" in refused(source, skip_unreadable=True, image_size=[4, 4])


def test_a_broken_image_is_named_when_it_is_streamed(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "root", {**tree(8), "dog/01.png": b"no image"})
    dataset = opened(source, placement="stream")
    with pytest.raises(DataError, match=r"dog/01\.png cannot be used: not an image\. Repair or remove it"):
        every_pixel(dataset, placement="stream", loader_workers=1)


def test_statistics_of_streamed_images_are_those_of_decoded_ones(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "root", tree(30))
    made = [channel_statistics(opened(source, placement=placement)) for placement in ("device", "stream")]
    assert made[0] == made[1]
