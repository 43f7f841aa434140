from __future__ import annotations

import os
from pathlib import Path

import pytest

from disttrain.files import remove_folder, replacing_folder, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_the_place_of_an_older_one_once_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model"
    for content in ("old", "new"):
        with replacing_folder(target) as beside:
            (beside / content).write_text(content)
            assert content == "old" or names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(target.parent) == ["model"]


def test_a_folder_that_could_not_be_filled_leaves_the_older_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()

    def fill(folder: Path) -> None:
        (folder / "half").touch()
        (folder / "half" / "file").touch()

    with pytest.raises(NotADirectoryError), replacing_folder(target) as beside:
        fill(beside)
    assert names(tmp_path) == ["model"]
    assert names(target) == ["old"]


def test_a_folder_is_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "one" / "two").mkdir(parents=True)
    remove_folder(tmp_path / "one")
    assert names(tmp_path) == []


def test_a_durable_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append(names(tmp_path))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "latest", "step", durable=True)
    before, after = seen
    assert "latest" not in before
    assert after == ["latest"]
    write_atomically(tmp_path / "status", "1")
    assert len(seen) == 2
