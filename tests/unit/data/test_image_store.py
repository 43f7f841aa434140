"""Images in folders and zip files: which are found, by which names, and what is refused as a whole."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from disttrain.data.image_store import ImageStore
from disttrain.errors import DataError

from ..helpers import png, random_image, store_of, write_zip


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_images_are_found_by_name_in_sorted_order_and_nothing_else(tmp_path: Path, kind: str) -> None:
    files = {name: png(random_image(k)) for k, name in enumerate(["b.PNG", "sub/deep/a.png", "a.jpeg", "z.webp"])}
    others = dict.fromkeys(("readme.txt", ".hidden.png", "sub/.trash/a.png", "__MACOSX/a.png", "png", "c.csv"), b"x")
    store = store_of(tmp_path, kind, {**files, **others})
    assert store.names() == ["a.jpeg", "b.PNG", "sub/deep/a.png", "z.webp"]
    assert all(store.read(name) == files[name] for name in store.names())


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_signature_changes_with_the_content(tmp_path: Path, kind: str) -> None:
    def signature(name: str, seed: int) -> list[str]:
        files = {"b.png": png(random_image(9)), "a.png": png(random_image(seed))}
        return store_of(tmp_path / name, kind, files).signature()

    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    first = signature("1", 1)
    assert [line.split()[0] for line in first] == ["a.png", "b.png"]
    assert signature("2", 2)[0] != first[0]


def test_a_file_rewritten_with_the_same_size_changes_the_signature(tmp_path: Path) -> None:
    store = store_of(tmp_path, "folder", {"a.png": b"1234"})
    before = store.signature()
    os.utime(tmp_path / "f" / "a.png", ns=(1, 1))
    assert ImageStore(store.path).signature() != before


@pytest.mark.parametrize("kind", ["missing", "text", "cut short"])
def test_what_is_neither_folder_nor_zip_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "images.zip"
    if kind == "text":
        path.write_text("no zip")
    elif kind == "cut short":
        write_zip(path, {"a.png": png(random_image(0))})
        path.write_bytes(path.read_bytes()[:-30])
    expected = "does not exist" if kind == "missing" else "is not a readable zip file"
    with pytest.raises(DataError, match=expected):
        ImageStore(path)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_store_can_be_sent_to_another_process(tmp_path: Path, kind: str) -> None:
    store = store_of(tmp_path, kind, {"a.png": png(random_image(0))})
    copy = pickle.loads(pickle.dumps(store))
    assert copy.names() == ["a.png"]
    assert copy.read("a.png") == store.read("a.png")
