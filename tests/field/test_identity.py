"""The same data, the same run, the same folder: what is taken for what it was, and what is refused instead."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from unit.helpers import not_none

import disttrain.data.cache as cache
from disttrain.config import build_config
from disttrain.config.sections import DataConfig
from disttrain.data.base import Dataset
from disttrain.data.identity import data_identity, identity_differences
from disttrain.data.open import dataset_from_maps, open_dataset
from disttrain.errors import ConfigError, DataError
from disttrain.files import expand_home, file_identity
from disttrain.training.same_data import check_same_data

Make = Callable[[Path, int], None]


def png(file: Path, value: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), (value,) * 3).save(file)


def make_mnist(folder: Path, shift: int) -> None:
    folder.mkdir()
    for part, n in (("train", 30), ("t10k", 10)):
        header = np.array([n, 4, 4], ">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + header + bytes(16 * n))
        labels = bytes((i + shift) % 3 for i in range(n))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + header[:4] + labels)


def make_chips(folder: Path, shift: int) -> None:
    for i in range(8):
        png(folder / f"{i % 2}__scene{i}__0_0.png", 100 + shift)


def make_chips_json(folder: Path, shift: int) -> None:
    folder.mkdir()
    labels = [(i + shift) % 2 for i in range(8)]
    table = {"data": [[7] * 1200] * 8, "labels": labels, "scene_ids": [f"s{i}" for i in range(8)], "locations": []}
    (folder / "planesnet.json").write_text(json.dumps(table))


def make_tree(folder: Path, shift: int) -> None:
    for i in range(8):
        png(folder / "ab"[i % 2] / f"{i}.png", 100 + shift)


def make_tree_of_other_classes(folder: Path, shift: int) -> None:
    for i in range(8):
        png(folder / ("a", "bc"[shift])[i % 2] / f"{i}.png", 100)


def make_zip(folder: Path, shift: int) -> None:
    folder.mkdir()
    make_tree(folder / "tree", shift)
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for file in sorted((folder / "tree").rglob("*.png")):
            archive.writestr(zipfile.ZipInfo(str(file.relative_to(folder / "tree"))), file.read_bytes())
    shutil.rmtree(folder / "tree")


KINDS: dict[str, tuple[str, str, Make]] = {
    "idx": ("mnist", "", make_mnist),
    "chips": ("planesnet", "", make_chips),
    "json": ("planesnet", "", make_chips_json),
    "tree": ("image_folder", "", make_tree),
    "classes": ("image_folder", "", make_tree_of_other_classes),
    "zip": ("image_folder", "all.zip", make_zip),
}


def opened(kind: str, folder: Path, **fields: object) -> Dataset:
    name, below, _ = KINDS[kind]
    values = {"cache_dir": str(folder.parent / "cache"), "split": "random", **fields}
    if kind == "idx":
        del values["split"]
    return open_dataset(build_config({"data": {"name": name, "path": str(folder / below), **values}}).data)


def content(dataset: Dataset) -> list[object]:
    arrays = dataset.samples
    return [arrays.images.tobytes(), arrays.labels.tolist(), dataset.class_names]  # type: ignore[union-attr]


def same_times(folder: Path) -> None:
    for file in folder.rglob("*"):
        os.utime(file, (1, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_two_datasets_of_equal_names_sizes_and_times_never_share_a_cache_entry(tmp_path: Path, kind: str) -> None:
    for number, name in enumerate("AB"):
        KINDS[kind][2](tmp_path / name, number)
        same_times(tmp_path / name)
    first, second = (content(opened(kind, tmp_path / name)) for name in "AB")
    assert first != second
    assert [content(opened(kind, tmp_path / name)) for name in "AB"] == [first, second]  # now from the cache


@pytest.mark.parametrize("kind", KINDS)
def test_data_replaced_in_its_place_with_the_old_times_is_read_anew(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "data"
    KINDS[kind][2](place, 0)
    same_times(place)
    before = opened(kind, place)
    place.rename(tmp_path / "before")
    KINDS[kind][2](place, 1)
    same_times(place)
    after = opened(kind, place)
    assert content(after) != content(before)
    assert identity_differences(data_identity(before), data_identity(after))


def test_a_file_rewritten_through_its_own_inode_is_read_anew(tmp_path: Path) -> None:
    make_mnist(tmp_path / "data", 0)
    make_mnist(tmp_path / "other", 1)
    file = tmp_path / "data" / "train-labels-idx1-ubyte"
    os.utime(file, (1, 1))
    before, labels = file_identity(file), not_none(opened("idx", tmp_path / "data").labels)
    with file.open("r+b") as opened_file:
        opened_file.write((tmp_path / "other" / file.name).read_bytes())
    os.utime(file, (1, 1))
    assert file_identity(file) != before
    assert not np.array_equal(not_none(opened("idx", tmp_path / "data").labels), labels)


def test_data_behind_a_link_is_the_same_data(tmp_path: Path) -> None:
    make_tree(tmp_path / "data", 0)
    (tmp_path / "link").symlink_to("data")
    assert content(opened("tree", tmp_path / "link")) == content(opened("tree", tmp_path / "data"))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_link_that_points_elsewhere_now_is_other_data(tmp_path: Path) -> None:
    for number, name in enumerate("AB"):
        make_tree(tmp_path / name, number)
        same_times(tmp_path / name)
    link, found = tmp_path / "current", []
    for name in "AB":
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        found.append(content(opened("tree", link)))
    assert found[0] != found[1]


def test_another_decoder_is_another_cache_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path / "data", 0)
    opened("tree", tmp_path / "data")
    monkeypatch.setattr(cache, "_MADE_BY", (*cache._MADE_BY[:-1], "another Pillow"))
    opened("tree", tmp_path / "data")
    assert len(list((tmp_path / "cache").iterdir())) == 2


class Points(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    classes = ("left", "right")

    def __init__(self, count: int, seed: int, flip: int = -1, draws: bool = False) -> None:
        self.x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
        self.flip, self.draws, self.own = flip, draws, torch.Generator()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = torch.randn(4) + torch.randn(4, generator=self.own) if self.draws else 0
        return self.x[index] + noise, int(self.x[index, 0] > 0) ^ (index == self.flip)


def maps(train: object, test: object = None) -> dict[str, Any]:
    return data_identity(dataset_from_maps(train, test, DataConfig()))


BEGUN = maps(Points(20, 1))


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (lambda: maps(Points(20, 1)), None),
        (lambda: maps(Points(20, 2)), "fingerprint: samples:"),
        (lambda: maps(Points(20, 1, flip=3)), "fingerprint: samples:"),
        (lambda: maps(Points(21, 1)), r"train: \d+ -> \d+ samples"),
        (lambda: maps(Points(20, 1), Points(5, 2)), "test: "),
        (lambda: {**BEGUN, "classes": ["left", "wrong"]}, "classes: left, right -> left, wrong"),
        (lambda: {**BEGUN, "fingerprint": "files:1"}, None),  # another placement: not to be compared
    ],
)
def test_what_differs_in_the_users_own_data_is_told(
    tmp_path: Path, now: Callable[[], dict[str, Any]], says: str | None
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"data": BEGUN}))
    if says is None:
        return check_same_data(tmp_path, now(), accept_changes=False)
    with pytest.raises(ConfigError, match=says) as error:
        check_same_data(tmp_path, now(), accept_changes=False)
    for way_out in ("another --run-dir", "--resume never", "--accept-changed-config"):
        assert way_out in str(error.value)
    return check_same_data(tmp_path, now(), accept_changes=True)


def test_data_that_draws_from_a_generator_of_its_own_is_not_taken_for_other_data() -> None:
    one, other = (maps(Points(20, 1, draws=True)) for _ in range(2))
    assert identity_differences(one, other) == []
    assert identity_differences(one, maps(Points(22, 1, draws=True)))


def test_tensors_are_compared_to_the_last_one() -> None:
    x, y = torch.zeros(1000, 3), torch.zeros(1000, dtype=torch.int64)
    before = maps(torch.utils.data.TensorDataset(x, y))
    y = y.clone()
    y[777] = 1
    assert identity_differences(before, maps(torch.utils.data.TensorDataset(x, y)))


@pytest.mark.parametrize("change", ["size", "name", "gone", "nothing"])
def test_streamed_files_are_compared_by_name_size_and_class(tmp_path: Path, change: str) -> None:
    make_tree(tmp_path / "data", 0)
    before = data_identity(opened("tree", tmp_path / "data", placement="stream"))
    shutil.copytree(tmp_path / "data", tmp_path / "copy")  # as a job does that stages its data on a local disk
    victim = tmp_path / "copy" / "a" / "2.png"
    if change == "size":
        victim.write_bytes(victim.read_bytes() + b"\0")
    elif change == "name":
        victim.rename(victim.with_name("2b.png"))
    elif change == "gone":
        victim.unlink()
    after = data_identity(opened("tree", tmp_path / "copy", placement="stream"))
    assert bool(identity_differences(before, after)) == (change != "nothing")


@pytest.mark.parametrize("manifest", [None, "", "[]", "{}", '{"data": null}', '{"data_fingerprint": ""}'])
def test_a_run_that_has_recorded_no_data_goes_on(tmp_path: Path, manifest: str | None) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    check_same_data(tmp_path, BEGUN, accept_changes=False)


def test_a_manifest_of_an_earlier_version_is_compared_too(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"data_fingerprint": "ab" * 32}))
    with pytest.raises(ConfigError, match=r"fingerprint: abababababab\.\.\. -> cdcdcdcdcdcd\.\.\."):
        check_same_data(tmp_path, {**BEGUN, "fingerprint": "cd" * 32}, accept_changes=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~", "{home}"),
        ("~/x", "{home}/x"),
        ("~root/x", "/root/x"),
        ("./~/x", "./~/x"),
        ("x/~", "x/~"),
        ("~no-such-user/x", "~no-such-user/x"),
    ],
)
def test_a_tilde_means_what_it_means_in_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home(text) == expected.format(home=tmp_path)


def test_a_path_from_a_variable_that_is_not_set_is_not_the_working_directory(tmp_path: Path) -> None:
    make_tree(tmp_path / "data", 0)
    for name in ("mnist", "image_folder", "planesnet"):
        with pytest.raises(ConfigError, match="a path is empty: was a shell variable in it not set"):
            open_dataset(build_config({"data": {"name": name, "path": ""}}).data)
    with pytest.raises(ConfigError, match="a path is empty"):
        opened("tree", tmp_path / "data", cache_dir="")


def test_without_a_home_folder_a_tilde_and_the_cache_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # as in a container with a random user id
    with pytest.raises(ConfigError, match=r"~/x: there is no home folder, since HOME is not set and user id 54321"):
        expand_home("~/x")
    with pytest.raises(DataError, match=r"Set data\.cache_dir \(or XDG_CACHE_HOME\) to a folder that can be written"):
        cache.default_cache_dir()
