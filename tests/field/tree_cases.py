"""Trees as people have them, each with what it is taken for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .trees import CAT_DOG, below, classes, picture


@dataclass(frozen=True)
class Tree:
    name: str
    files: dict[str, bytes]
    found: dict[str, dict[str, int]] | tuple[str, ...] | str
    """Counts by split, or the class names, or what the refusal says (a part of it)."""
    empty: tuple[str, ...] = ()
    warns: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


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
    Tree("one class alone", classes("cat"), ("cat",), warns="has a single class, its folder cat"),
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
    Tree("classes that look alike", classes("cat", "Cat ", "dog"), ("Cat ", "cat", "dog"),
         warns="the folders ['Cat ', 'cat'] are different classes"),
    Tree("names with a line end", classes("a\nb", "c"), ("a\nb", "c")),
)  # fmt: skip
