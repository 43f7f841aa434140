"""Trees, zips and files as people have them: every image used as meant, or counted in a warning, or refused with what
was found."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import os
import socket
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.helpers import SCENES, chips, idx, mnist_files, planesnet_json, png

from disttrain.config import build_config
from disttrain.config.sections import DataConfig
from disttrain.data.base import Dataset
from disttrain.data.decode import UnreadableImage, decode_image
from disttrain.data.image_store import ImageStore
from disttrain.data.open import open_dataset
from disttrain.data.tools import describe_dataset
from disttrain.errors import DataError, DisttrainError
from disttrain.inference.predict_files import predict_files
from disttrain.launch.env import RankEnv
from disttrain.log import log
from disttrain.models.build import build_model
from disttrain.models.model_dir import ModelSpec, save_model_dir

from .trees import as_folder, as_zip, classes, picture


def config(path: Path, name: str = "image_folder", **fields: Any) -> DataConfig:
    return build_config({"data": {"name": name, "path": str(path), **fields}}).data


def opened(path: Path, name: str = "image_folder", **fields: Any) -> Dataset:
    return open_dataset(config(path, name, **fields))


def refused(path: Path, name: str = "image_folder", **fields: Any) -> str:
    with pytest.raises(DataError) as error:
        opened(path, name, **fields)
    return str(error.value)


def counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Images of each class in each split that has any."""
    assert dataset.labels is not None
    found = {}
    for split, ids in dataset.splits.items():
        numbers = np.bincount(dataset.labels[ids], minlength=len(dataset.class_names))
        if len(ids):
            found[split] = dict(zip(dataset.class_names, numbers.tolist(), strict=True))
    return found


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What has been warned of so far."""
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.WARNING, logger="disttrain")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


# Split folders


@pytest.mark.parametrize("kind", ["folder", "zip", "zip with a folder around"])
@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("train", "valid", "test"),
        ("training", "validation", "testing"),
        ("Train", "Dev", "Test"),
        ("TRAIN", "VAL", "TEST"),
        ("train_set", "val_set", "test_set"),
        ("training-data", "validation-data", "holdout"),
        ("seg_train", "seg_val", "seg_test"),
        ("train2017", "val2017", "test2017"),
        ("trn", "valid_images", "tst"),
    ],
)
def test_split_folders_by_their_usual_names(tmp_path: Path, kind: str, train: str, val: str, test: str) -> None:
    around = "mydata/" if "around" in kind else ""
    files = {
        f"{around}{split}/{name}": content
        for split, count in ((train, 4), (val, 2), (test, 3))
        for name, content in classes("cat", "dog", count=count).items()
    }
    source = as_folder(tmp_path / "r", files) if kind == "folder" else as_zip(tmp_path / "r.zip", files)
    assert counts(opened(source)) == {
        "train": {"cat": 4, "dog": 4},
        "val": {"cat": 2, "dog": 2},
        "test": {"cat": 3, "dog": 3},
    }


@dataclass(frozen=True)
class Tree:
    name: str
    files: dict[str, bytes]
    found: dict[str, dict[str, int]] | tuple[str, ...] | str
    """Counts by split, or the class names, or what the refusal says (a part of it)."""
    empty: tuple[str, ...] = ()
    warns: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


def below(top: str, *names: str, **options: Any) -> dict[str, bytes]:
    return classes(*(f"{top}/{name}" for name in names), **options)


CAT_DOG = ("cat", "dog")
TREES = (
    # splits
    Tree("digits below training and testing", {**below("training", *"01"), **below("testing", *"01")},
         {"train": {"0": 3, "1": 3}, "test": {"0": 3, "1": 3}}),
    Tree("val without test is the test split", {**below("train", *CAT_DOG), **below("valid", *CAT_DOG)},
         {"train": {"cat": 3, "dog": 3}, "test": {"cat": 3, "dog": 3}}),
    Tree("only train", below("train", *CAT_DOG), {"train": {"cat": 3, "dog": 3}}),
    Tree("only test", below("test", *CAT_DOG), {"test": {"cat": 3, "dog": 3}}),
    Tree("a split folder in a split folder",
         {**below("seg_train/seg_train", *CAT_DOG), **below("seg_test/seg_test", *CAT_DOG)},
         {"train": {"cat": 3, "dog": 3}, "test": {"cat": 3, "dog": 3}}),
    Tree("a class that the test folder lacks", {**below("train", *CAT_DOG), **below("test", "cat")},
         {"train": {"cat": 3, "dog": 3}, "test": {"cat": 3, "dog": 0}}),
    Tree("an empty class in the test folder", {**below("train", *CAT_DOG), **below("test", "cat")},
         {"train": {"cat": 3, "dog": 3}, "test": {"cat": 3, "dog": 0}}, empty=("test/dog",)),
    Tree("an empty class in the train folder", {**below("train", *CAT_DOG), **below("test", *CAT_DOG)},
         "1 of the 3 class folders in {root}/train hold no image: bird", empty=("train/bird",)),
    Tree("a class that the train folder lacks", {**below("train", *CAT_DOG), **below("test", "cat", "bird")},
         "{root}/test has the class folders bird, which {root}/train does not have: its classes are cat, dog"),
    Tree("capitals that differ between splits", {**below("train", *CAT_DOG), **below("test", "Cat", "Dog")},
         "{root}/test has the class folders Cat, Dog, which {root}/train does not have"),
    Tree("an empty test folder", below("train", *CAT_DOG), "{root}/test holds no images", empty=("test",)),
    Tree("images without a class below test", {**below("train", *CAT_DOG), "test/1.png": picture(1)},
         "test/1.png is in no class folder (1 such images)"),
    Tree("two folders for one split", {**below("train", *CAT_DOG), **below("training", *CAT_DOG)},
         "has the folders train, training for one split"),
    Tree("train, test and a third", {**below("train", *CAT_DOG), **below("test", *CAT_DOG), **classes("extra")},
         "has the folders test, train, which are splits by their names, and beside them extra"),
    Tree("train beside a split of another name", {**below("train", *CAT_DOG), **below("fold2", *CAT_DOG)},
         "has the folders train, which are splits by their names, and beside them fold2"),
    Tree("trainval beside test", {**below("trainval", *CAT_DOG), **below("test", *CAT_DOG)}, "beside them trainval"),
    Tree("loose images beside split folders",
         {**below("train", *CAT_DOG), **below("test", *CAT_DOG), "a.png": picture(0)},
         "a.png is in no class folder"),
    # classes whose names look like splits
    Tree("a class named train", classes("train", "tram"), ("train", "tram")),
    Tree("classes with a split's word in their name", classes("test_tube", "dev-board"), ("dev-board", "test_tube")),
    Tree("a class named test, with folders of its own", {**below("test", "a", "b"), **below("car", "c", "d")},
         ("car", "test")),
    # folders around everything
    Tree("one folder around", below("mydata", *CAT_DOG), CAT_DOG),
    Tree("two folders around", below("a/b", *CAT_DOG), CAT_DOG),
    Tree("one folder around, with a file beside", {**below("mydata", *CAT_DOG), "readme.txt": b"x"}, CAT_DOG,
         warns="1 .txt"),
    Tree("one folder around, named as a test set", below("my_test_data", *CAT_DOG), CAT_DOG),
    Tree("one class alone", classes("cat"), ("cat",)),
    Tree("folders within classes", {**classes("cat/a", "cat/b"), **classes("dog")}, CAT_DOG),
    Tree("the same folders within every class", {**below("fold1", *CAT_DOG), **below("fold2", *CAT_DOG)},
         ("fold1", "fold2"), warns="each of these holds the folders cat, dog"),
    # what is no image, and what is not seen
    Tree("an empty class folder", classes(*CAT_DOG), "1 of the 3 class folders in {root} hold no image: bird",
         empty=("bird",)),
    Tree("a class of nothing but other files", {**classes(*CAT_DOG), "bird/a.heic": b"1", "bird/b.heic": b"2"},
         "hold no image: bird (it has 2 .heic)"),
    Tree("other files in a class", {**classes(*CAT_DOG), "cat/a.heic": b"1", "dog/b.svg": b"2", "cat/c": b"3"}, CAT_DOG,
         warns="3 files that are no images by their suffix (1 .heic, 1 .svg, 1 without suffix)"),
    Tree("what systems put beside files", {**classes(*CAT_DOG), "__MACOSX/cat/._0.png": b"x", "cat/._0.png": b"x",
         "cat/Thumbs.db": b"x", ".DS_Store": b"x", "@eaDir/cat/0.png": b"x", ".ipynb_checkpoints/0.png": b"x"},
         CAT_DOG),
    Tree("hidden images", {**classes(*CAT_DOG), "cat/.a.png": picture(0)}, CAT_DOG, warns="1 hidden (cat/.a.png)"),
    Tree("no images at all", {"a/b.txt": b"x"}, "holds no images (it has 1 .txt)"),
    Tree("nothing", {}, "holds no images", empty=("cat",)),
    Tree("names with spaces, commas and letters of all kinds", classes("große Katze, müde", "собака", "猫"),
         ("große Katze, müde", "собака", "猫")),
    Tree("names with a line end", classes("a\nb", "c"), ("a\nb", "c")),
)  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.name)
def test_a_tree_is_used_as_meant_or_refused(tmp_path: Path, tree: Tree, kind: str, warnings: Callable[[], str]) -> None:
    root = tmp_path / "r" if kind == "folder" else tmp_path / "r.zip"
    source = as_folder(root, tree.files, tree.empty) if kind == "folder" else as_zip(root, tree.files, empty=tree.empty)
    if isinstance(tree.found, str):
        assert tree.found.replace("{root}", str(root)) in refused(source, **tree.fields)
        return
    dataset = opened(source, **tree.fields)
    if isinstance(tree.found, dict):
        assert counts(dataset) == tree.found
    else:
        assert dataset.class_names == tree.found
    assert (tree.warns in warnings()) if tree.warns else (warnings() == "")


# Zips


def test_a_zip_with_backslashes_has_folders(tmp_path: Path) -> None:
    files = {name.replace("/", "\\"): content for name, content in below("top", *CAT_DOG).items()}
    source = as_zip(tmp_path / "r.zip", {**files, "__MACOSX\\top\\cat\\._1.png": b"junk"})
    assert opened(source).class_names == CAT_DOG
    plain = opened(as_folder(tmp_path / "r", below("top", *CAT_DOG)))
    assert np.array_equal(opened(source).samples.images, plain.samples.images)


def test_a_planesnet_zip_with_backslashes_has_labels_and_scenes(tmp_path: Path) -> None:
    made = {name: png(image) for name, image in chips(9).items()}
    source = as_zip(tmp_path / "p.zip", {f"planesnet\\{name}": content for name, content in made.items()})
    dataset = opened(source, "planesnet")
    assert dataset.labels.tolist() == [int(name[0]) for name in made]
    assert dataset.samples.scene_names == SCENES


@pytest.mark.parametrize("start", ["./", "/", "../", "C:\\data\\"])
def test_what_stands_before_the_names_of_a_zip_is_no_class(tmp_path: Path, start: str) -> None:
    files = {f"{start}{name}": content for name, content in classes(*CAT_DOG).items()}
    assert opened(as_zip(tmp_path / "r.zip", files)).class_names == CAT_DOG


def test_a_name_that_comes_twice_in_a_zip_counts_once(tmp_path: Path, warnings: Callable[[], str]) -> None:
    source = as_zip(tmp_path / "r.zip", {**classes(*CAT_DOG), "./cat/0.png": picture(77)})
    dataset = opened(source)
    assert len(dataset.samples) == 6
    assert np.array_equal(dataset.samples.images[0], decode_image(picture(77), (3, 6, 6)))
    assert "1 names that come again, of which the last one counts (cat/0.png)" in warnings()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_a_zip_is_an_unreadable_image_however_it_is_compressed(tmp_path: Path, compression: int) -> None:
    source = as_zip(tmp_path / "r.zip", classes(*CAT_DOG), compression)
    content = bytearray(source.read_bytes())
    content[60:80] = bytes(byte ^ 255 for byte in content[60:80])
    source.write_bytes(content)
    assert "1 of 6 images" in refused(source, image_size=[6, 6])
    assert len(opened(source, skip_unreadable=True).samples) == 5


def test_a_link_in_a_zip_is_named(tmp_path: Path) -> None:
    source = as_zip(tmp_path / "r.zip", classes(*CAT_DOG))
    with zipfile.ZipFile(source, "a") as archive:
        info = zipfile.ZipInfo("bird")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "../birds")
    assert "bird: is a link, which leads nowhere from within a zip" in refused(source)


def test_a_zip_is_known_by_its_content(tmp_path: Path) -> None:
    source = as_zip(tmp_path / "download", classes(*CAT_DOG))
    assert opened(source).class_names == CAT_DOG


# Links and files that cannot be read


def test_linked_class_and_split_folders_are_followed(tmp_path: Path) -> None:
    root = as_folder(tmp_path / "r", {**below("train", "cat"), **below("elsewhere/all", "dog")})
    (root / "train" / "dog").symlink_to("../elsewhere/all/dog")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "train").symlink_to(root / "train")
    (tmp_path / "s" / "test").symlink_to(root / "train", target_is_directory=True)
    assert counts(opened(tmp_path / "s")) == {"train": {"cat": 3, "dog": 3}, "test": {"cat": 3, "dog": 3}}


def test_a_linked_image_and_a_linked_root_are_followed(tmp_path: Path) -> None:
    root = as_folder(tmp_path / "r", classes(*CAT_DOG))
    (root / "cat" / "linked.png").symlink_to("0.png")
    (tmp_path / "link").symlink_to(root)
    assert len(opened(tmp_path / "link").samples) == 7


@pytest.mark.parametrize("target", [".", "..", "../dog", "../../r"])
def test_a_loop_of_links_is_noticed(tmp_path: Path, target: str, warnings: Callable[[], str]) -> None:
    root = as_folder(tmp_path / "r", classes(*CAT_DOG))
    (root / "cat" / "loop").symlink_to(target)
    (root / "dog" / "loop").symlink_to("../cat")
    assert opened(root).class_names == CAT_DOG
    assert "links to a folder that they are in" in warnings()


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
    assert failed == "1 of 7 images could not be read: see the error column of their rows."
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


# Paths that are something else


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("labels.csv", b"file,label\na.png,cat\n", "is a CSV file: images come as a folder or a zip file"),
        ("data.tar", b"\0" * 257 + b"ustar" + b"\0" * 300, "is a tar archive"),
        ("data.tar.gz", gzip.compress(b"x", mtime=0), "is gzip data"),
        ("data.7z", b"7z\xbc\xaf\x27\x1c\0\4", "is a 7z archive"),
        ("data.npy", b"\x93NUMPY\1\0", "is a NumPy array"),
        ("a.png", picture(0), "is a PNG image"),
        ("coco.json", b'{"images": []}', "is a JSON file"),
        ("empty", b"", "is an empty file"),
        ("data.parquet", b"PAR1\0\0", "is a Parquet file"),
        ("noise", b"\x01\x02\x03\xff", "is a file of an unknown kind"),
        ("data.zip", b"<html>not found</html>", "is not a readable zip file"),
    ],
)
def test_a_path_that_is_no_tree_is_told_as_what_it_is(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert says in refused(tmp_path / name)
    if name != "coco.json":
        assert says in refused(tmp_path / name, "planesnet")


def test_a_path_that_is_a_lost_link_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("/nowhere")
    assert "does not exist" in refused(tmp_path / "data")


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


# Predict


class Alone:
    """The control plane of one rank."""

    def run_on_all(self, stage: str, make: Callable[[], Any]) -> Any:
        return make()

    def sum(self, name: str, value: int) -> int:
        return value


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory for 6x6 pictures of `cat` and `dog`."""
    folder = tmp_path_factory.mktemp("model") / "model"
    sections = build_config({"model": {"name": "mnist_mlp"}}).model
    model = build_model(sections, (3, 6, 6), 2)
    spec = ModelSpec("mnist_mlp", {}, 0.0, (3, 6, 6), CAT_DOG, (128.0,) * 3, (64.0,) * 3)
    save_model_dir(folder, model, spec)
    return folder


def predicted(
    model: Path, given: Path | str, capsys: pytest.CaptureFixture[str], output: Path | None = None
) -> tuple[list[dict[str, str]], str]:
    """The rows of the CSV, and what the command says at its end."""
    message = ""
    capsys.readouterr()
    try:
        plane: Any = Alone()
        predict_files(model, [str(given)], output and str(output), "cpu", False, RankEnv.alone(), plane)
    except DisttrainError as error:
        message = str(error)
    text = output.read_text(errors="surrogateescape") if output else capsys.readouterr().out
    return list(csv.DictReader(io.StringIO(text))), message


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


def test_a_store_reads_from_a_zip_and_a_folder_alike(tmp_path: Path) -> None:
    files = classes(*CAT_DOG)
    stores = ImageStore(as_folder(tmp_path / "r", files)), ImageStore(as_zip(tmp_path / "r.zip", files))
    assert stores[0].names() == stores[1].names() == sorted(files)
    for store in stores:
        assert [store.read(name) for name in sorted(files)] == [files[name] for name in sorted(files)]
        with pytest.raises(UnreadableImage):
            store.read("cat/none.png")
