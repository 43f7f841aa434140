"""Which folder is a class and which a split: decided from the names of a tree alone, or refused with what was found."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disttrain.data.listing import Listing
from disttrain.errors import DataError
from disttrain.log import log

_SPLIT_WORDS = {
    "train": ("train", "training", "trn", "trainset", "traindata"),
    "val": ("val", "valid", "validation", "dev", "valset", "validset", "validationset"),
    "test": ("test", "testing", "tst", "testset", "testdata", "holdout", "heldout"),
}
_FORM = "image_folder is root/class/image.png, or root/train/class/image.png beside root/test and root/val."
_SHOWN = 6
_PARTS = {
    "image", "images", "img", "imgs", "mask", "masks", "label", "labels", "annotation", "annotations", "target",
    "targets",
}  # fmt: skip


@dataclass(frozen=True)
class ClassTree:
    """The images of a tree with their classes, and their splits where it has folders for these."""

    names: list[str]
    class_names: tuple[str, ...]
    labels: np.ndarray
    """int64 [n]"""
    splits: np.ndarray | None
    """str [n]: `train`, `val` or `test`."""


def split_of_folder(name: str, whole: bool = False) -> str | None:
    """`train`, `val` or `test` where a folder's name says so, in any case, else None.

    Args:
        whole: the name is nothing but that (`Training`, `valid`, `test-set`), not `seg_test` or `train2017`.
    """
    words = re.sub(r"[^a-z]+", "" if whole else " ", name.lower()).split()
    found = {split for split, known in _SPLIT_WORDS.items() for word in words if word in known}
    return found.pop() if len(found) == 1 else None


def arrange(listing: Listing, root: Path) -> ClassTree:
    """Classes and splits of the images in a listing. Raises DataError where the tree can be read in two ways, or holds
    a folder that would be lost."""
    if not listing.images:
        raise DataError(f"{root} holds no images{listing.describe_others()}. {_FORM}")
    paths = {name: tuple(name.split("/")) for name in listing.images}
    tree = _Tree(list(paths.values()), [tuple(name.split("/")) for name in sorted(listing.folders)], listing, root)
    base = tree.without_single_folders()
    tree.refuse_loose(base)
    splits = tree.split_folders(base)
    if splits is None:
        classes = tree.classes_below(base)
        tree.warn_of_same_subfolders(base, classes)
        starts = {base: ""}
    else:
        starts = {tree.split_base((*base, folder)): split for folder, split in splits.items()}
        classes = tree.classes_of_splits(starts)
    class_names = tuple(sorted(classes))
    _warn_of_similar(class_names, root)
    _warn_of_parts(class_names, root)
    number = {name: index for index, name in enumerate(class_names)}
    labels, split_column = [], []
    for path in paths.values():
        start = next(start for start in starts if path[: len(start)] == start)
        labels.append(number[path[len(start)]])
        split_column.append(starts[start])
    split_of = None if splits is None else np.array(split_column)
    return ClassTree(list(paths), class_names, np.array(labels, dtype=np.int64), split_of)


_Path = tuple[str, ...]


class _Tree:
    """What lies where, in paths below the root."""

    def __init__(self, images: list[_Path], folders: list[_Path], listing: Listing, root: Path) -> None:
        self.images, self.folders, self.listing, self.root = images, folders, listing, root
        # How many images lie directly in a folder, and which folders it holds.
        self.direct: dict[_Path, int] = {}
        self.inside: dict[_Path, set[str]] = {}
        self.filled: set[_Path] = set()
        for path in images:
            self.direct[path[:-1]] = self.direct.get(path[:-1], 0) + 1
            for depth in range(1, len(path)):
                self.inside.setdefault(path[: depth - 1], set()).add(path[depth - 1])
                self.filled.add(path[:depth])
        for path in folders:
            for depth in range(1, len(path) + 1):
                self.inside.setdefault(path[: depth - 1], set()).add(path[depth - 1])

    def folders_in(self, base: _Path) -> list[str]:
        return sorted(self.inside.get(base, ()))

    def shown(self, base: _Path) -> str:
        return str(self.root.joinpath(*base))

    def without_single_folders(self) -> _Path:
        """Where the tree begins: an archiver puts everything into one folder, which is no class."""
        base: _Path = ()
        while (
            len(folders := self.folders_in(base)) == 1
            and base not in self.direct
            and not split_of_folder(folders[0], whole=True)
            and (*base, folders[0]) not in self.direct
            and self.folders_in((*base, folders[0]))
        ):
            base = (*base, folders[0])
        return base

    def split_folders(self, base: _Path) -> dict[str, str] | None:
        """The split of each folder at `base`, or None where they are classes."""
        folders = self.folders_in(base)
        splits = {
            folder: split
            for folder in folders
            if (split := split_of_folder(folder, whole=(*base, folder) in self.direct))
        }
        if not splits:
            return None
        others = [folder for folder in folders if folder not in splits]
        if not others:
            doubled = [folder for folder in splits if list(splits.values()).count(splits[folder]) > 1]
            if doubled:
                raise DataError(
                    f"{self.shown(base)} has the folders {', '.join(doubled)} for one split. Put their images together."
                )
            return splits
        below = {sub for folder in splits for sub in self.folders_in((*base, folder))}
        alike = [folder for folder in others if below & set(self.folders_in((*base, folder)))]
        if len(set(splits.values())) > 1 or alike:
            raise DataError(
                f"{self.shown(base)} has the folders {', '.join(splits)}, which are splits by their names, and beside "
                f"them {_some(alike or others)}: neither all are splits nor all are classes. {_FORM}"
            )
        return None

    def split_base(self, folder: _Path) -> _Path:
        """Where the classes of a split begin: `seg_train/seg_train/class` is known in the wild."""
        inner = self.folders_in(folder)
        alone = len(inner) == 1 and folder not in self.direct
        same = alone and split_of_folder(inner[0]) == split_of_folder(folder[-1])
        return (*folder, inner[0]) if same else folder

    def refuse_loose(self, base: _Path) -> None:
        """Raise DataError for images that lie at `base`, in no class folder, or where there are no folders at all."""
        if base in self.direct:
            loose = self.root.joinpath(*min(path for path in self.images if path[:-1] == base))
            raise DataError(f"{loose} is in no class folder ({self.direct[base]} such images). {_FORM}")
        if not self.folders_in(base):
            raise DataError(f"{self.shown(base)} holds no images{self._instead_in(base)}. {_FORM}")

    def classes_below(self, base: _Path, may_be_empty: bool = False) -> set[str]:
        """The class folders at `base`, each with an image. Raises DataError for images outside, and empty folders."""
        self.refuse_loose(base)
        folders = self.folders_in(base)
        empty = [folder for folder in folders if (*base, folder) not in self.filled]
        if empty and not may_be_empty:
            named = ", ".join(f"{folder}{self._instead_in((*base, folder))}" for folder in empty[:_SHOWN])
            raise DataError(
                f"{len(empty)} of the {len(folders)} class folders in {self.shown(base)} hold no image: {named}. Every "
                "folder there is a class: put images in, or remove it."
            )
        return {folder for folder in folders if (*base, folder) in self.filled}

    def classes_of_splits(self, starts: dict[_Path, str]) -> set[str]:
        """The classes of all splits: those to train on, where there are any. Raises DataError for others."""
        train = next((start for start, split in starts.items() if split == "train"), None)
        if train is None:
            return set().union(*(self.classes_below(start) for start in starts))
        classes = self.classes_below(train)
        for start in starts:
            unknown = sorted(self.classes_below(start, may_be_empty=start != train) - classes)
            if unknown:
                raise DataError(
                    f"{self.shown(start)} has the class folders {_some(unknown)}, which {self.shown(train)} does not "
                    f"have: its classes are {_some(sorted(classes))}. Give both the same names (capitals count)."
                )
        return classes

    def warn_of_same_subfolders(self, base: _Path, classes: set[str]) -> None:
        """The classes may be one level further down than the tree is read."""
        inner = [set(self.folders_in((*base, name))) for name in classes if (*base, name) not in self.direct]
        shared = set.intersection(*inner) if len(inner) == len(classes) > 1 else set()
        if len(shared) > 1:
            log.warning(
                "the classes of %s are its folders %s; that each of these holds the folders %s has no meaning",
                self.root, _some(sorted(classes)), _some(sorted(shared)),
            )  # fmt: skip

    def _instead_in(self, base: _Path) -> str:
        return self.listing.describe_others("".join(f"{part}/" for part in base))


def _warn_of_similar(class_names: tuple[str, ...], root: Path) -> None:
    same: dict[str, list[str]] = {}
    for name in class_names:
        same.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    for names in same.values():
        if len(names) > 1:
            log.warning("%s: the folders %s are different classes, though they look alike", root, names)


def _warn_of_parts(class_names: tuple[str, ...], root: Path) -> None:
    """One class, and folders that are named as the parts of a dataset, are seldom what was meant."""
    if len(class_names) == 1:
        log.warning("%s has a single class, its folder %s: there is nothing to tell apart", root, class_names[0])
    elif all(name.casefold() in _PARTS for name in class_names):
        log.warning(
            "the classes of %s are its folders %s, which are named as parts of another form of data: every image is of "
            "the class that its folder names", root, _some(list(class_names)),
        )  # fmt: skip


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
