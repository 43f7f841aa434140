"""Files that cannot be read are one kind of fault in every command; those that can are read, whatever their names."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disttrain.data.tools import describe_dataset
from disttrain.errors import DataError

from .trees import (
    CAT_DOG,
    as_folder,
    as_zip,
    below,
    classes,
    config,
    opened,
    picture,
    predicted,
    refused,
    save_classifier,
)


def lost_link(place: Path) -> None:
    place.symlink_to("/nowhere/z.png")


def link_to_itself(place: Path) -> None:
    place.symlink_to(place.name)


def pipe(place: Path) -> None:
    os.mkfifo(place)


def local_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place))


def empty_file(place: Path) -> None:
    place.touch()


def huge_file(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(2 << 30)  # of holes


def lfs_pointer(place: Path) -> None:
    place.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")


def error_page(place: Path) -> None:
    place.write_text("<!DOCTYPE html><html><body>404</body></html>")


def heic_photo(place: Path) -> None:
    place.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


def damaged_tiff(place: Path) -> None:
    content = bytearray(picture(0, "TIFF"))
    at = struct.unpack_from("<I", content, 4)[0]
    for k in range(struct.unpack_from("<H", content, at)[0]):
        entry = at + 2 + 12 * k
        if struct.unpack_from("<H", content, entry)[0] == 273:
            struct.pack_into("<HI", content, entry + 2, 2, 1)  # the places of the strips said to be text
    place.write_bytes(content)


def cut_short(form: str) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        data = picture(0, form)
        place.write_bytes(data[: len(data) * 2 // 3])

    make.__name__ = f"{form.lower()} cut short"
    return make


UNREADABLE = {
    lost_link: "is a link to /nowhere/z.png, which is not there",
    link_to_itself: "symbolic links",
    pipe: "is not a regular file",
    local_socket: "is not a regular file",
    empty_file: "the file is empty",
    huge_file: "is 2147483648 bytes long",
    lfs_pointer: "not an image but a Git LFS pointer",
    error_page: "not an image but an HTML page",
    heic_photo: "not an image but a HEIC photo",
    damaged_tiff: "",
    **{cut_short(form): "" for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")},
}


@pytest.mark.parametrize("make", UNREADABLE, ids=lambda make: make.__name__)
def test_an_unreadable_image_is_one_kind_of_fault_everywhere(
    tmp_path: Path, make: Callable[[Path], None], classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = as_folder(tmp_path / "r", classes(*CAT_DOG))
    make(root / "cat" / "zz.png")
    reason = UNREADABLE[make]
    for message in (refused(root), refused_info(root)):
        assert "1 of 7 images" in message
        assert f"zz.png: {reason}" in message.replace("Too many levels of symbolic links", "symbolic links")
        assert "set data.skip_unreadable=true to go on without them" in message
    assert len(opened(root, skip_unreadable=True).samples) == 6
    rows, failed = predicted(classifier, root, capsys)
    assert (
        failed
        == "1 of 7 images could not be read, or have no finite probabilities: see the error column of their rows."
    )
    assert [row["path"] for row in rows if row["error"]] == [f"{root}/cat/zz.png"]
    assert sum(bool(row["label"]) for row in rows) == 6


def refused_info(root: Path) -> str:
    with pytest.raises(DataError) as error:
        describe_dataset(config(root))
    return str(error.value)


@pytest.mark.parametrize("kind", ["folder", "lost link", "link with a suffix"])
def test_a_folder_that_cannot_be_looked_into_is_named(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = as_folder(tmp_path / "r", classes(*CAT_DOG))
    place = root / ("bird.v1" if "suffix" in kind else "bird")
    if kind == "folder":  # root may read every folder: the refusal is made here
        place.mkdir()
        look = os.scandir

        def scandir(folder: Any) -> Any:
            if Path(folder) == place:
                raise PermissionError(13, "Permission denied", str(folder))
            return look(folder)

        monkeypatch.setattr(os, "scandir", scandir)
    else:
        place.symlink_to("/disk2/bird")
    reason = "Permission denied" if kind == "folder" else "is a link to /disk2/bird, which is not there"
    assert f"{place.name}: {reason}" in refused(root)
    assert opened(root, skip_unreadable=True).class_names == CAT_DOG
    rows, _ = predicted(classifier, root, capsys)
    assert [row["error"] for row in rows if row["error"]] == [reason]


def test_what_is_left_out_is_told_again_when_it_comes_from_the_cache(
    tmp_path: Path, warnings: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = as_folder(tmp_path / "r", {**classes(*CAT_DOG), "cat/zz.png": b""})
    opened(root, skip_unreadable=True)
    assert "left out 1 of 7 images" in capsys.readouterr().err
    assert warnings() == ""
    opened(root, skip_unreadable=True)
    assert "left out 1 of 7 images that cannot be used" in warnings()


def test_a_class_of_nothing_but_unreadable_images_is_not_left_out(tmp_path: Path) -> None:
    root = as_folder(tmp_path / "r", {**classes(*CAT_DOG), "bird/1.png": b"", "bird/2.png": b"x"})
    assert "none of the images of bird" in refused(root, skip_unreadable=True)
    split = {**below("train", *CAT_DOG), "train/bird/1.png": b"", **below("test", *CAT_DOG, "bird")}
    assert "none of the images of bird" in refused(as_folder(tmp_path / "s", split), skip_unreadable=True)


SUFFIXES = {
    "png": "PNG", "PNG": "PNG", "jpg": "JPEG", "JPeG": "JPEG", "jfif": "JPEG", "jpe": "JPEG", "gif": "GIF",
    "bmp": "BMP", "dib": "DIB", "ppm": "PPM", "pnm": "PPM", "webp": "WEBP", "tif": "TIFF", "tiff": "TIFF", "tga": "TGA",
    "pcx": "PCX",
    "jp2": "JPEG2000", "j2k": "JPEG2000", "sgi": "SGI", "ico": "ICO", "apng": "PNG", "mpo": "MPO",
}  # fmt: skip


def test_every_usual_suffix_is_read(tmp_path: Path, warnings: Callable[[], str]) -> None:
    files = {f"all/{suffix}.{suffix}": picture(1, form) for suffix, form in SUFFIXES.items()}
    source = as_folder(tmp_path / "r", {**files, **classes("other")})
    assert len(opened(source, image_size=[6, 6]).samples) == len(SUFFIXES) + 3
    assert warnings() == ""


def test_an_image_under_another_formats_suffix_is_read(tmp_path: Path) -> None:
    source = as_folder(
        tmp_path / "r", {**classes("cat"), "dog/a.png": picture(0, "BMP"), "dog/b.jpg": picture(1, "GIF")}
    )
    assert len(opened(source).samples) == 5


def test_names_that_are_not_utf8_are_written_and_read_back(
    tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = as_folder(tmp_path / "p", {"one.png": picture(0)})
    odd = os.fsencode(root) + b"/caf\xe9.png"
    Path(os.fsdecode(odd)).write_bytes(picture(1))
    rows, message = predicted(classifier, root, capsys, tmp_path / "p.csv")
    assert message == ""
    assert sorted(os.fsencode(row["path"]) for row in rows) == [odd, os.fsencode(root / "one.png")]
    predicted(classifier, root, capsys, tmp_path / "p.jsonl")
    lines = (tmp_path / "p.jsonl").read_text().splitlines()
    assert odd in [os.fsencode(json.loads(line)["path"]) for line in lines]


def test_a_class_folder_whose_name_is_not_utf8_is_a_class(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    root = as_folder(tmp_path / "r", classes("cat", odd))
    assert opened(root).class_names == opened(root).class_names == (odd, "cat")[:: 1 if odd < "cat" else -1]


def test_a_model_whose_channels_no_image_file_has_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, message = predicted(save_classifier(tmp_path / "model", channels=4), tmp_path, capsys)
    assert rows == []
    assert "takes images of shape [4, 6, 6], and image files are read as 3 channels (RGB) or 1" in message


def test_predict_reads_what_training_reads(
    tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str], warnings: Callable[[], str]
) -> None:
    files = {"a\\b\\0.PNG": picture(0), "1.gif": picture(1, "GIF"), "__MACOSX\\._1.gif": b"x", "notes.md": b"x"}
    rows, message = predicted(classifier, as_zip(tmp_path / "download", files), capsys)
    assert message == ""
    assert [row["path"] for row in rows] == [f"{tmp_path}/download/1.gif", f"{tmp_path}/download/a/b/0.PNG"]
    assert "1 files that are no images by their suffix (1 .md)" in warnings()
    rows, message = predicted(classifier, as_folder(tmp_path / "none", {"a.heic": b"x"}), capsys)
    assert (rows, "holds no images (it has 1 .heic)" in message) == ([], True)
