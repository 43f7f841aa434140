"""JSON and IDX files: told as what they are, and read under the names that people have."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from unit.helpers import SCENES, chips, idx, mnist_files, planesnet_json

from .trees import as_folder, opened, picture, refused

# JSON and IDX


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text + "x", "is not readable JSON: Extra data"),
        (lambda text: text[:-20], "is not readable JSON"),
        (lambda text: "a,b\n1,2\n", "(it is a CSV file)"),
        (lambda text: "<html></html>", "(it is an HTML page"),
        (lambda text: "[" * 100_000, "is not readable JSON"),
        (lambda text: '{"images": [], "annotations": []}', "this file has the keys images, annotations"),
        (lambda text: "[1, 2]", "this file has a list"),
        (lambda text: text.replace(f'"{SCENES[0]}"', "null"), "scene id None of chip 0 is no name"),
        (lambda text: text.replace(f'"{SCENES[0]}"', '["a"]'), "scene id ['a'] of chip 0 is no name"),
        (lambda text: text.replace('"labels": [0', '"labels": [NaN'), "label nan of chip 0 is out of range"),
        (lambda text: text.replace('"labels": [0', '"labels": [[0]'), "label [0] of chip 0 is out of range"),
        (lambda text: text.replace('"data": [[', '"data": [[null, '), "has 1201 numbers"),
    ],
)
def test_json_is_told_as_what_it_is(tmp_path: Path, change: Callable[[str], str], says: str) -> None:
    (tmp_path / "planesnet.json").write_text(change(json.dumps(planesnet_json(chips(4)))))
    assert says in refused(tmp_path / "planesnet.json", "planesnet")


@pytest.mark.parametrize("name", ["planesnet.json", "PLANES.JSON", "planesnet.json.txt", "planes"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n  "])
def test_json_is_known_by_its_content(tmp_path: Path, name: str, start: bytes) -> None:
    (tmp_path / name).write_bytes(start + json.dumps(planesnet_json(chips(4))).encode())
    assert len(opened(tmp_path / name, "planesnet").samples) == 4


FIRST = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (idx(np.zeros((12, 28, 28))) + b"extra", "is 5 bytes too long"),
        (idx(np.zeros((12, 28, 28)))[:-5], "is cut short"),
        (b"\0\0\x0d\x03" + b"\0" * 12, "it is an IDX file of float32 values"),
        (b"\0\0\x08\x46" + b"\0\0\0\1" * 70 + b"x", "has 70 dimensions"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"x", "is cut short"),
        (b"\0\0\x08\x03" + b"\0" * 12, "is empty"),
        (b"<html>", "it is an HTML page"),
        (picture(0), "it is a PNG image"),
        (b"", "it is an empty file"),
        (b"a,b\n1,2\n", "it is a CSV file"),
        (gzip.compress(idx(np.zeros((12, 28, 28))), mtime=0) + b"extra", "is damaged"),
    ],
)
def test_an_idx_file_is_told_as_what_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in refused(as_folder(tmp_path / "m", {**mnist_files(), FIRST: content}), "mnist")


@pytest.mark.parametrize("form", ["{}.gz holding plain bytes", "{} holding gzip", "dots", "folders of that name"])
def test_idx_files_are_read_under_the_names_that_people_have(tmp_path: Path, form: str) -> None:
    files = {}
    for name, content in mnist_files().items():
        dotted = name.replace("-idx", ".idx")
        if "plain" in form:
            files[f"{name}.gz"] = content
        elif "gzip" in form:
            files[name] = gzip.compress(content)
        else:
            files[dotted if form == "dots" else f"{dotted}/{dotted}"] = content
    assert len(opened(as_folder(tmp_path / "m", files), "mnist").samples) == 17


@pytest.mark.parametrize(
    ("name", "kind"), [("train.csv", "a CSV file"), ("mnist.zip", "a zip file"), (FIRST, "an IDX file")]
)
def test_a_path_for_mnist_that_is_no_folder_is_told(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes({"a CSV file": b"label,p\n1,2\n", "a zip file": b"PK\3\4"}.get(kind, b"\0\0\x08\x03"))
    assert f"is {kind}, not a folder" in refused(tmp_path / name, "mnist")


def test_a_folder_without_the_idx_files_is_told_with_what_it_has(tmp_path: Path) -> None:
    assert "there is train.csv" in refused(as_folder(tmp_path / "m", {"train.csv": b"x"}), "mnist")
