"""The images that were given, in order, as a list on the disk: a million names are not held in memory."""

from __future__ import annotations

import glob
import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disttrain.data.decode import UnreadableImage
from disttrain.data.image_store import open_zip, read_image_file, read_member
from disttrain.data.listing import LeftOut, file_mark, look_at_member, named_members, scan_folder
from disttrain.data.sorted_records import SortedRecords
from disttrain.data.zip_directory import Member, ZipReader
from disttrain.errors import DataError
from disttrain.inference.inputs import holds_images, no_images
from disttrain.log import log

_STRIDE = 32  # images between two places of the list that are remembered
LIST_FILES = _LIST, _SOURCES, _PLACES = "inputs.jsonl", "sources.json", "places.bin"
_FILE, _MEMBER, _LOST = "file", "member", "lost"


@dataclass(frozen=True)
class Item:
    """One image to classify."""

    path: str
    """As it is shown."""
    kind: str
    source: str
    """The file, or the zip that it is in."""
    detail: Any
    """What the zip says of it, or why it cannot be read."""


@dataclass(frozen=True)
class InputList:
    """A list that has been written."""

    folder: Path
    count: int
    sha256: str
    """Over the names, and what changes when an image does."""
    places: array[int]
    """Bytes before every `_STRIDE`-th image."""

    def items(self, start: int, end: int) -> list[Item]:
        """Those from `start` to before `end`. Raises OSError."""
        before = start % _STRIDE
        with (self.folder / _LIST).open(encoding="ascii") as file:
            file.seek(self.places[start // _STRIDE])
            lines = [file.readline() for _ in range(start - before, min(end, self.count))][before:]
        sources = json.loads((self.folder / _SOURCES).read_text(encoding="ascii"))
        return [_item(sources, *json.loads(line)) for line in lines]

    def save(self) -> None:
        """So that another process finds it. Raises OSError."""
        (self.folder / _PLACES).write_bytes(self.places.tobytes())

    @classmethod
    def load(cls, folder: Path, count: int, sha256: str) -> InputList:
        """As another process has saved it. Raises OSError."""
        return cls(folder, count, sha256, array("Q", (folder / _PLACES).read_bytes()))


def _item(sources: list[str], name: str, source: int, kind: str, detail: Any, mark: str) -> Item:
    where = sources[source]
    shown = f"{where}/{name}" if where and name else where or name
    return Item(shown, kind, where if kind == _MEMBER else shown, detail)


class ItemReader:
    """Reads the bytes of items; zips stay open."""

    def __init__(self) -> None:
        self._zips: dict[str, ZipReader] = {}

    def read(self, item: Item) -> bytes:
        """Raises UnreadableImage."""
        if item.kind == _LOST:
            raise UnreadableImage(item.detail)
        if item.kind == _FILE:
            return read_image_file(Path(item.source))
        try:
            reader = self._zips.get(item.source) or ZipReader(Path(item.source))
        except Exception as error:  # it was readable when the list was made
            raise UnreadableImage(f"the zip can no longer be read: {error}") from error
        self._zips[item.source] = reader
        return read_member(reader, Member(*item.detail))


def write_input_list(inputs: Sequence[str], folder: Path) -> InputList:
    """List files, folders, globs and zips in the order given; folders, zips and globs sorted by name.

    `folder`: where the list goes; it is no input itself. Raises DataError for an input without images, OSError where
    the list cannot be written.
    """
    sources: list[str] = []
    places, count, at, digest = array("Q"), 0, 0, hashlib.sha256()
    with (folder / _LIST).open("w", encoding="ascii") as file:
        for given in inputs:
            for record in _records(given, folder, sources):
                line = json.dumps(record) + "\n"
                if count % _STRIDE == 0:
                    places.append(at)
                at += file.write(line)
                digest.update(line.encode())
                count += 1
    text = json.dumps(sources)
    digest.update(text.encode())
    (folder / _SOURCES).write_text(text, encoding="ascii")
    written = InputList(folder, count, digest.hexdigest(), places)
    written.save()
    return written


def _records(given: str, folder: Path, sources: list[str]) -> Iterator[list[Any]]:
    """[name, number of the source, kind, detail, mark] of every image of one input."""
    if Path(given).exists() or not any(sign in given for sign in "*?["):
        yield from _expand(Path(given), folder, sources)
        return
    matches = SortedRecords(folder)
    for match in glob.iglob(given, recursive=True):  # noqa: PTH207 (absolute patterns too)
        matches.add([match])
    found = False
    for (match,) in matches:
        found = True
        yield from _expand(Path(match), folder, sources)
    if not found:
        raise DataError(f"{given} matches no file.")


def _expand(path: Path, folder: Path, sources: list[str]) -> Iterator[list[Any]]:
    if not holds_images(path):
        if not sources or sources[-1] != "":
            sources.append("")  # files of a pattern share it
        yield [str(path), len(sources) - 1, _FILE, None, _mark(path)]
        return
    sources.append(str(path))
    source, left_out, count = len(sources) - 1, LeftOut(), 0
    sorted_records = SortedRecords(folder)
    for record in (_folder_records if path.is_dir() else _zip_records)(path, folder, left_out):
        sorted_records.add(record)
    for name, _, kind, detail, mark in _last_of_each_name(sorted_records, left_out):
        count += 1
        yield [name, source, kind, detail, mark]
    if not count:
        raise no_images(path, left_out.describe_others())
    if text := left_out.describe():
        log.warning("%s: left out %s", path, text)


def _mark(path: Path) -> str:
    try:
        return file_mark(path.stat())
    except OSError as error:
        return str(error.errno)


def _folder_records(path: Path, folder: Path, left_out: LeftOut) -> Iterator[list[Any]]:
    for kind, name, detail in scan_folder(path, leave_out=folder):
        if kind == "image":
            yield [name, 0, _FILE, None, detail]
        elif kind == "unreadable":
            yield [name, 0, _LOST, detail, ""]
        elif kind != "folder":
            left_out.add(kind, name)


def _zip_records(path: Path, folder: Path, left_out: LeftOut) -> Iterator[list[Any]]:
    with open_zip(path) as reader:
        for name, member in named_members(reader):
            found = look_at_member(name, member)
            if found is None:
                continue
            if found.kind == "image":
                yield [name, 0, _MEMBER, list(member), ""]
            elif found.kind == "unreadable":
                yield [name, 0, _LOST, found.detail, ""]
            else:
                left_out.add(found.kind, name)


def _last_of_each_name(records: SortedRecords, left_out: LeftOut) -> Iterator[list[Any]]:
    last: list[Any] | None = None
    for record in records:
        if last is not None and last[0] == record[0]:
            left_out.add("repeated", record[0])
        elif last is not None:
            yield last
        last = record
    if last is not None:
        yield last
