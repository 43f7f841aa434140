"""The files of a folder or a zip: which are images, what else is there, and the bytes of each."""

from __future__ import annotations

import collections
import os
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from disttrain.data.decode import UnreadableImage, image_suffixes
from disttrain.data.file_kind import is_zip, kind_of_file
from disttrain.errors import DataError

_LITTER = {
    ".DS_Store", ".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN",
    "System Volume Information", "lost+found",
}  # fmt: skip
"""What systems put beside files unasked: passed over without a word, with all that is in it."""
_LARGEST_BYTES = 1 << 30  # of one image; a damaged zip may claim any size
_UNREADABLE = "unreadable"


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
    hidden: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    """Links to a folder that they are in."""
    repeated: list[str] = field(default_factory=list)
    """Names that a zip holds again; the last one counts, as in unpacking."""

    def describe_others(self, below: str = "") -> str:
        """` (it has 12 .txt, 3 .csv)` of the folder `below`, to follow its name; an empty string without others."""
        others = [name for name in self.others if name.startswith(below)]
        return f" (it has {_count_suffixes(others)})" if others else ""

    def describe_left_out(self) -> str:
        """What is not used, with counts; an empty string where everything is."""
        parts = []
        if self.others:
            suffixes = _count_suffixes(self.others)
            parts.append(f"{len(self.others)} files that are no images by their suffix ({suffixes})")
        for names, what in (
            (self.hidden, "hidden"),
            (self.loops, "links to a folder that they are in"),
            (self.repeated, "names that come again, of which the last one counts"),
        ):
            if names:
                more = ", ..." if len(names) > 3 else ""
                parts.append(f"{len(names)} {what} ({', '.join(names[:3])}{more})")
        return "; ".join(parts)


def _count_suffixes(names: Iterable[str]) -> str:
    """Like `12 .txt, 3 .csv, 1 without suffix`, the most frequent first."""
    counts = collections.Counter(PurePosixPath(name).suffix.lower() or "without suffix" for name in names)
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:8]
    return ", ".join(f"{count} {suffix}" for suffix, count in frequent)


class ImageStore:
    """The images below a folder or in a zip file, by name."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where `path` is neither a folder nor a readable zip."""
        self.path = path
        self._is_zip = not path.is_dir()
        self._zip: tuple[int, zipfile.ZipFile] | None = None
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._listing: Listing | None = None
        if self._is_zip:
            _check_zip(path)
            try:
                self._open_zip()
            except Exception as error:  # a damaged directory makes zipfile raise anything
                raise DataError(f"{path} is not a readable zip file: {error}. Copy or download it again.") from None

    def _open_zip(self) -> zipfile.ZipFile:
        """The zip, opened once per process: processes that share an open file move each other's position in it."""
        if self._zip is None or self._zip[0] != os.getpid():
            archive = zipfile.ZipFile(self.path)
            self._zip = os.getpid(), archive
            self._members = {name: info for info in archive.infolist() if (name := _clean(info.filename))}
        return self._zip[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_zip": None, "_members": {}, "_listing": None}

    @property
    def listing(self) -> Listing:
        """Everything that is there, looked up once. Raises DataError for a folder that cannot be read."""
        if self._listing is None:
            self._listing = self._list_zip() if self._is_zip else _list_folder(self.path)
            self._listing.images = dict(sorted(self._listing.images.items()))
        return self._listing

    def names(self) -> list[str]:
        """Paths of all images relative to the store, sorted."""
        return list(self.listing.images)

    def signature(self) -> list[str]:
        """A line per image that changes when the image does: name, size and time or CRC-32."""
        return [f"{name} {mark}" for name, mark in self.listing.images.items()]

    def _list_zip(self) -> Listing:
        listing = Listing()
        archive = self._open_zip()
        counts = collections.Counter(_clean(info.filename) for info in archive.infolist() if not _is_folder(info))
        listing.repeated = [name for name, count in counts.items() if count > 1]
        for name, info in self._members.items():
            parts = name.split("/")
            if any(map(_is_litter, parts)):
                continue
            above = parts if _is_folder(info) else parts[:-1]
            listing.folders.update("/".join(above[: depth + 1]) for depth in range(len(above)))
            if any(part.startswith(".") for part in parts):
                listing.hidden.append(name)
            elif stat.S_ISLNK(info.external_attr >> 16):
                listing.unreadable[name] = "is a link, which leads nowhere from within a zip"
            elif not _is_folder(info):
                _add_file(listing, name, f"{info.file_size} {info.CRC}")
        return listing

    def read(self, name: str) -> bytes:
        """The bytes of one image. Raises UnreadableImage."""
        if not self._is_zip:
            return read_image_file(self.path / name)
        try:
            archive = self._open_zip()
            if self._members[name].file_size > _LARGEST_BYTES:
                raise UnreadableImage(f"claims to be {self._members[name].file_size} bytes long")
            return archive.read(self._members[name])
        except UnreadableImage:
            raise
        except Exception as error:  # as many types as there are ways to compress
            raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from error


def read_image_file(path: Path) -> bytes:
    """The bytes of an image file. Raises UnreadableImage: not there, not allowed, not a regular file, far too large."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            raise UnreadableImage("is not a regular file")
        if status.st_size > _LARGEST_BYTES:
            raise UnreadableImage(f"is {status.st_size} bytes long, more than an image has")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(_why(path, error)) from error


def _why(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"is a link to {path.readlink()}, which is not there" if path.is_symlink() else "no such file"
    return error.strerror or str(error)


def _check_zip(path: Path) -> None:
    """Raise DataError for what is no zip, as the thing that it is."""
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path} is a link to {path.readlink()}, which is not there: mount it, or mend the link.")
    if not path.exists():
        raise DataError(f"{path} does not exist: give the folder or zip file that holds the images.")
    try:
        kind = "" if is_zip(path) else kind_of_file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Give a folder or zip file of images.") from None
    if kind:
        raise DataError(f"{path} is {kind}: images come as a folder or a zip file. Unpack it, or give another path.")


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith(("/", "\\"))


def _clean(name: str) -> str:
    """A zip's name with `/` between its parts, whatever the archiver wrote, and nothing before the first."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def _is_litter(name: str) -> bool:
    return name in _LITTER or name.startswith("._")


def _add_file(listing: Listing, name: str, mark: str) -> None:
    if PurePosixPath(name).suffix.lower() in image_suffixes():
        listing.images[name] = mark
    else:
        listing.others.append(name)


def _list_folder(root: Path) -> Listing:
    """Links are followed, but not into a folder that they are in."""
    listing = Listing()
    status = root.stat()
    waiting = [("", frozenset({(status.st_dev, status.st_ino)}))]
    while waiting:
        below, above = waiting.pop()
        try:
            with os.scandir(root / below) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if not below:
                raise DataError(f"the folder {root} cannot be read: {error.strerror}.") from None
            listing.unreadable[below] = error.strerror or str(error)
            listing.folders.discard(below)
            continue
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if _is_litter(entry.name):
                continue
            if entry.name.startswith("."):
                listing.hidden.append(name)
                continue
            try:
                status = entry.stat()
            except OSError as error:
                _add_lost(listing, name, _why(root / name, error))
                continue
            if not stat.S_ISDIR(status.st_mode):
                _add_file(listing, name, f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}")
            elif (status.st_dev, status.st_ino) in above:
                listing.loops.append(name)
            else:
                listing.folders.add(name)
                waiting.append((name, above | {(status.st_dev, status.st_ino)}))
    return listing


def _add_lost(listing: Listing, name: str, reason: str) -> None:
    """A name that leads nowhere: an unreadable image, or what may have been a folder of them."""
    if PurePosixPath(name).suffix.lower() in image_suffixes():
        listing.images[name] = _UNREADABLE
    else:
        listing.unreadable[name] = reason
