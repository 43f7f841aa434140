"""Trees and zips as people have them: used as meant, counted in a warning, or refused with what was found."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from unit.helpers import SCENES, chips, image_arrays, not_none, png

from disttrain.data.decode import UnreadableImage, decode_image
from disttrain.data.image_store import ImageStore

from .tree_cases import TREES, Tree
from .trees import CAT_DOG, as_folder, as_zip, below, classes, counts, opened, picture, refused

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
    assert np.array_equal(image_arrays(opened(source)).images, image_arrays(plain).images)


def test_a_planesnet_zip_with_backslashes_has_labels_and_scenes(tmp_path: Path) -> None:
    made = {name: png(image) for name, image in chips(9).items()}
    source = as_zip(tmp_path / "p.zip", {f"planesnet\\{name}": content for name, content in made.items()})
    dataset = opened(source, "planesnet")
    assert not_none(dataset.labels).tolist() == [int(name[0]) for name in made]
    assert image_arrays(dataset).scene_names == SCENES


@pytest.mark.parametrize("start", ["./", "/", "../", "C:\\data\\"])
def test_what_stands_before_the_names_of_a_zip_is_no_class(tmp_path: Path, start: str) -> None:
    files = {f"{start}{name}": content for name, content in classes(*CAT_DOG).items()}
    assert opened(as_zip(tmp_path / "r.zip", files)).class_names == CAT_DOG


def test_a_name_that_comes_twice_in_a_zip_counts_once(tmp_path: Path, warnings: Callable[[], str]) -> None:
    source = as_zip(tmp_path / "r.zip", {**classes(*CAT_DOG), "./cat/0.png": picture(77)})
    dataset = opened(source)
    assert len(dataset.samples) == 6
    assert np.array_equal(image_arrays(dataset).images[0], decode_image(picture(77), (3, 6, 6)))
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


def test_a_store_reads_from_a_zip_and_a_folder_alike(tmp_path: Path) -> None:
    files = classes(*CAT_DOG)
    stores = ImageStore(as_folder(tmp_path / "r", files)), ImageStore(as_zip(tmp_path / "r.zip", files))
    assert stores[0].names() == stores[1].names() == sorted(files)
    for store in stores:
        assert [store.read(name) for name in sorted(files)] == [files[name] for name in sorted(files)]
        with pytest.raises(UnreadableImage):
            store.read("cat/none.png")
