"""The images of a folder or a zip: their names, and the bytes of each."""

from __future__ import annotations

import collections
import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from disttrain.data.decode import UnreadableImage
from disttrain.data.file_kind import is_zip, kind_of_file
from disttrain.data.listing import (
    Listing,
    is_folder,
    is_litter,
    look_at_member,
    named_members,
    scan_folder,
    why_unreadable,
)
from disttrain.data.zip_directory import Member, ZipReader
from disttrain.errors import DataError

_LARGEST_BYTES = 1 << 30  # of one image; a damaged zip may claim any size


class ImageStore:
    """The images below a folder or in a zip file, by name."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where `path` is neither a folder nor a readable zip."""
        self.path = path
        self._is_zip = not path.is_dir()
        self._zip: ZipReader | None = None
        self._members: dict[str, Member] = {}
        self._listing: Listing | None = None
        if self._is_zip:
            with open_zip(path) as self._zip:
                self._members = dict(named_members(self._zip))

    def _reader(self) -> ZipReader:
        if self._zip is None:
            self._zip = ZipReader(self.path)
            self._members = dict(named_members(self._zip))
        return self._zip

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_zip": None, "_members": {}, "_listing": None}

    @property
    def listing(self) -> Listing:
        """Everything that is there, looked up once. Raises DataError for a folder that cannot be read."""
        if self._listing is None:
            self._listing = self._list_zip() if self._is_zip else Listing()
            if not self._is_zip:
                for found in scan_folder(self.path):
                    self._listing.add(found)
            self._listing.images = dict(sorted(self._listing.images.items()))
            self._listing.unreadable = dict(sorted(self._listing.unreadable.items()))
            self._listing.others.sort()
        return self._listing

    def names(self) -> list[str]:
        """Paths of all images relative to the store, sorted."""
        return list(self.listing.images)

    def signature(self) -> list[str]:
        """A line per image that changes when the image does: name, size and time or CRC-32."""
        return [f"{name} {mark}" for name, mark in self.listing.images.items()]

    def _list_zip(self) -> Listing:
        listing = Listing()
        reader = self._reader()
        counts = collections.Counter(name for name, info in named_members(reader) if not is_folder(info))
        for name, count in counts.items():
            if count > 1:
                listing.left_out.add("repeated", name)
        for name, info in self._members.items():
            parts = name.split("/")
            if not any(map(is_litter, parts)):
                above = parts if is_folder(info) else parts[:-1]
                listing.folders.update("/".join(above[: depth + 1]) for depth in range(len(above)))
            if (found := look_at_member(name, info)) is not None:
                listing.add(found)
        return listing

    def read(self, name: str) -> bytes:
        """The bytes of one image. Raises UnreadableImage."""
        if not self._is_zip:
            return read_image_file(self.path / name)
        reader = self._reader()
        if name not in self._members:
            raise UnreadableImage("the zip has no file of this name")
        return read_member(reader, self._members[name])


def read_member(reader: ZipReader, member: Member) -> bytes:
    """The bytes of an image in a zip. Raises UnreadableImage."""
    if member.size > _LARGEST_BYTES:
        raise UnreadableImage(f"claims to be {member.size} bytes long")
    try:
        return reader.read(member)
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
        raise UnreadableImage(why_unreadable(path, error)) from error


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


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[ZipReader]:
    """A zip, whose directory is read within the context. Raises DataError, of what is wrong with the directory too."""
    _check_zip(path)
    try:
        yield ZipReader(path)
    except DataError:
        raise
    except Exception as error:  # a damaged directory makes zipfile raise anything
        raise DataError(f"{path} is not a readable zip file: {error}. Copy or download it again.") from None
