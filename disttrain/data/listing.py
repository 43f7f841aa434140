"""What a folder or a zip holds: which files are images, and what else is there."""

from __future__ import annotations

import bisect
import collections
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from disttrain.data.decode import image_suffixes
from disttrain.data.zip_directory import Member, ZipReader
from disttrain.errors import DataError

_LITTER = {
    ".DS_Store", ".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN",
    "System Volume Information", "lost+found",
}  # fmt: skip
"""What systems put beside files unasked: passed over without a word, with all that is in it."""
_UNREADABLE = "unreadable"
_EXAMPLES = 3  # of names in a message


class Found(NamedTuple):
    """One thing in a folder or a zip."""

    kind: str
    """`image`, `unreadable`, `folder`, `other` (no image by its suffix), `hidden`, `loop` (a link to a folder that it
    is in)."""
    name: str
    """Its path, with `/` between the parts."""
    detail: str = ""
    """The mark of an image, why something is unreadable."""


@dataclass
class LeftOut:
    """What is not used of a folder or a zip, counted."""

    suffixes: collections.Counter[str] = field(default_factory=collections.Counter)
    """Of files that are no images by their suffix."""
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """`kind`: `other`, `hidden`, `loop` or `repeated`."""
        self.counts[kind] += 1
        if kind == "other":
            self.suffixes[_suffix(name) or "without suffix"] += 1
        else:
            shown = self.examples.setdefault(kind, [])
            bisect.insort(shown, name)
            del shown[_EXAMPLES:]

    def describe_others(self) -> str:
        """` (it has 12 .txt, 3 .csv)`, to follow a name; an empty string without others."""
        return f" (it has {_frequent(self.suffixes)})" if self.suffixes else ""

    def describe(self) -> str:
        """What is not used, with counts; an empty string where everything is."""
        parts = []
        if self.suffixes:
            number, suffixes = self.counts["other"], _frequent(self.suffixes)
            parts.append(f"{number} files that are no images by their suffix ({suffixes})")
        for kind, what in (
            ("hidden", "hidden"),
            ("loop", "links to a folder that they are in"),
            ("repeated", "names that come again, of which the last one counts"),
        ):
            if number := self.counts[kind]:
                more = ", ..." if number > _EXAMPLES else ""
                parts.append(f"{number} {what} ({', '.join(self.examples[kind])}{more})")
        return "; ".join(parts)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _frequent(suffixes: collections.Counter[str]) -> str:
    """Like `12 .txt, 3 .csv, 1 without suffix`, the most frequent first."""
    frequent = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))[:8]
    return ", ".join(f"{count} {suffix}" for suffix, count in frequent)


@dataclass
class Listing:
    """What a folder or a zip holds. Names are paths relative to it, with `/` between their parts."""

    images: dict[str, str] = field(default_factory=dict)
    """The mark of each image, which changes when the image does (inode, size and times, or CRC-32), by name."""
    folders: set[str] = field(default_factory=set)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Why a folder or a link to one cannot be looked into, by name."""
    others: list[str] = field(default_factory=list)
    """Files that are no images by their suffix."""
    left_out: LeftOut = field(default_factory=LeftOut)

    def add(self, found: Found) -> None:
        """Take in what was found."""
        if found.kind == "image":
            self.images[found.name] = found.detail
        elif found.kind == "unreadable":
            self.unreadable[found.name] = found.detail
            self.folders.discard(found.name)
        elif found.kind == "folder":
            self.folders.add(found.name)
        else:
            self.left_out.add(found.kind, found.name)
            if found.kind == "other":
                self.others.append(found.name)

    def describe_others(self, below: str = "") -> str:
        """` (it has 12 .txt, 3 .csv)` of the folder `below`, to follow its name; an empty string without others."""
        left_out = LeftOut()
        for name in self.others:
            if name.startswith(below):
                left_out.add("other", name)
        return left_out.describe_others()

    def describe_left_out(self) -> str:
        """What is not used, with counts; an empty string where everything is."""
        return self.left_out.describe()


def named_members(reader: ZipReader) -> Iterator[tuple[str, Member]]:
    """The members that have a name, by that."""
    for info in reader.members():
        if name := _clean(info.filename):
            yield name, info


def look_at_member(name: str, info: Member) -> Found | None:
    """What a member of a zip is; None for folders, and what is passed over without a word."""
    parts = name.split("/")
    if any(map(is_litter, parts)):
        return None
    if any(part.startswith(".") for part in parts):
        return Found("hidden", name)
    if stat.S_ISLNK(info.external_attr >> 16):
        return Found("unreadable", name, "is a link, which leads nowhere from within a zip")
    return None if is_folder(info) else _file(name, f"{info.size} {info.crc}")


def is_folder(info: Member) -> bool:
    """Whether a member of a zip is a folder, whatever system wrote it."""
    return info.filename.endswith(("/", "\\"))


def _clean(name: str) -> str:
    """A zip's name with `/` between its parts, whatever the archiver wrote, and nothing before the first."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def is_litter(name: str) -> bool:
    """Whether a system puts it beside files unasked."""
    return name in _LITTER or name.startswith("._")


def _is_image(name: str) -> bool:
    return _suffix(name) in image_suffixes()


def _file(name: str, mark: str) -> Found:
    return Found("image", name, mark) if _is_image(name) else Found("other", name)


def file_mark(status: os.stat_result) -> str:
    """A text that is another one as soon as a file is another one, or has other content."""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def scan_folder(root: Path, leave_out: Path | None = None) -> Iterator[Found]:
    """All that is below a folder, in no order. Links are followed, but not into a folder that they are in.

    `leave_out`: a folder that is passed over. Raises DataError where `root` cannot be read.
    """
    status = root.stat()
    passed = leave_out.stat() if leave_out is not None and leave_out.exists() else None
    waiting = [("", frozenset({(status.st_dev, status.st_ino)}))]
    while waiting:
        below, above = waiting.pop()
        try:
            for entry in _entries(root / below):
                name = f"{below}/{entry.name}" if below else entry.name
                if is_litter(entry.name):
                    continue
                if entry.name.startswith("."):
                    yield Found("hidden", name)
                    continue
                try:
                    status = entry.stat()
                except OSError as error:
                    yield _lost(name, why_unreadable(root / name, error))
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    yield _file(name, file_mark(status))
                elif passed is not None and os.path.samestat(status, passed):
                    continue
                elif (status.st_dev, status.st_ino) in above:
                    yield Found("loop", name)
                else:
                    yield Found("folder", name)
                    waiting.append((name, above | {(status.st_dev, status.st_ino)}))
        except _Unreadable as error:
            if not below:
                raise DataError(f"the folder {root} cannot be read: {error}.") from None
            yield Found("unreadable", below, str(error))


class _Unreadable(Exception):
    """A folder that cannot be looked into."""


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as scan:
            yield from scan
    except OSError as error:
        raise _Unreadable(error.strerror or str(error)) from None


def _lost(name: str, reason: str) -> Found:
    """A name that leads nowhere: an unreadable image, or what may have been a folder of them."""
    return Found("image", name, _UNREADABLE) if _is_image(name) else Found("unreadable", name, reason)


def why_unreadable(path: Path, error: OSError) -> str:
    """The reason, for what a system call says of a path."""
    if isinstance(error, FileNotFoundError):
        return f"is a link to {path.readlink()}, which is not there" if path.is_symlink() else "no such file"
    return error.strerror or str(error)
