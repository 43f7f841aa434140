"""The members of a zip file one after the other, without holding its directory in memory: it may name millions.

Python's `zipfile` decides what every field means and reads the members; it is given the directory in pieces.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_END, _END_64, _LOCATOR_64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_END_FIELDS = struct.Struct("<4s4H2LH")
_END_64_FIELDS = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64_FIELDS = struct.Struct("<4sLQL")
_RECORD, _RECORD_SIGNATURE = 46, b"PK\1\2"
_LENGTHS = struct.Struct("<3H")  # of a record's name, extra fields and comment
_LENGTHS_AT = 28
_LONGEST_COMMENT = (1 << 16) - 1
_AT_ONCE = 2000  # records that zipfile reads together
_BLOCK = 1 << 20
_BUFFER = 1 << 16  # small members that follow each other are read together


class Member(NamedTuple):
    """A file or folder in a zip."""

    filename: str
    header_name: str
    """As it stands before its bytes too."""
    header_offset: int
    compressed_size: int
    size: int
    crc: int
    method: int
    flags: int
    external_attr: int
    """On Unix the mode of the file, 16 bits higher."""


class ZipReader:
    """An open zip file. May be used by a forked process too: nothing shared is moved by a read."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, or zipfile.BadZipFile for what is no zip."""
        self._file = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        self._start, self._length, self._shift = self._find_directory()
        # All that lies before the directory, with an empty directory: to open a member, zipfile needs no more.
        part = _Part(self._file.fileno(), self._start, _end_of_directory(0, 0))
        self._archive = zipfile.ZipFile(io.BufferedReader(part, _BUFFER))

    def members(self) -> Iterator[Member]:
        """All of them in the order of the directory, folders too. Raises BadZipFile, and what zipfile raises else."""
        records: list[bytes] = []
        rest, at = b"", self._start
        end = self._start + self._length
        while at < end or rest:
            block = os.pread(self._file.fileno(), min(_BLOCK, end - at), at)
            at += len(block)
            data, position = rest + block, 0
            while len(data) - position >= _RECORD:
                if not data.startswith(_RECORD_SIGNATURE, position):
                    raise zipfile.BadZipFile("Bad magic number for central directory")
                after = position + _RECORD + sum(_LENGTHS.unpack_from(data, position + _LENGTHS_AT))
                if after > len(data):
                    break
                records.append(data[position:after])
                position = after
                if len(records) == _AT_ONCE:
                    yield from self._parse(records)
                    records = []
            rest = data[position:]
            if rest and not block:
                raise zipfile.BadZipFile("Truncated central directory")
        yield from self._parse(records)

    def _parse(self, records: list[bytes]) -> Iterator[Member]:
        directory = b"".join(records)
        with zipfile.ZipFile(io.BytesIO(directory + _end_of_directory(len(records), len(directory)))) as part:
            for one in part.infolist():
                offset = one.header_offset + self._shift
                yield Member(one.filename, one.orig_filename, offset, one.compress_size, one.file_size, one.CRC,
                             one.compress_type, one.flag_bits, one.external_attr)  # fmt: skip

    def read(self, member: Member) -> bytes:
        """The bytes of a member. Raises as many types of exceptions as there are ways to compress."""
        info = zipfile.ZipInfo(member.header_name)
        info.header_offset, info.compress_size, info.file_size = member[2:5]
        info.CRC, info.compress_type, info.flag_bits = member[5:8]
        return self._archive.read(info)

    def _find_directory(self) -> tuple[int, int, int]:
        """Where the directory begins, its length, and by how much the file lies behind where it was written to."""
        tail_at = max(0, self._size - _END_FIELDS.size - _LONGEST_COMMENT)
        tail = os.pread(self._file.fileno(), self._size - tail_at, tail_at)
        found = tail.rfind(_END)
        if found < 0 or len(tail) - found < _END_FIELDS.size:
            raise zipfile.BadZipFile("File is not a zip file")
        *_, length, offset, _ = _END_FIELDS.unpack_from(tail, found)
        end = tail_at + found
        if (large := self._find_large(end)) is not None:
            length, offset, end = large
        shift = end - length - offset
        if offset + shift < 0:
            raise zipfile.BadZipFile("Bad offset for central directory")
        return offset + shift, length, shift

    def _find_large(self, end: int) -> tuple[int, int, int] | None:
        """Length and offset of the directory by the records of zip64, and where the directory ends; None without."""
        locator = os.pread(self._file.fileno(), _LOCATOR_64_FIELDS.size, max(0, end - _LOCATOR_64_FIELDS.size))
        if len(locator) < _LOCATOR_64_FIELDS.size or not locator.startswith(_LOCATOR_64):
            return None
        end -= _LOCATOR_64_FIELDS.size + _END_64_FIELDS.size
        record = os.pread(self._file.fileno(), _END_64_FIELDS.size, max(0, end))
        if len(record) < _END_64_FIELDS.size or not record.startswith(_END_64):
            return None
        *_, length, offset = _END_64_FIELDS.unpack(record)
        return length, offset, end


def _end_of_directory(count: int, length: int) -> bytes:
    """What follows a directory of so many records and bytes that is all there is of a zip."""
    return _END_FIELDS.pack(_END, 0, 0, count, count, length, 0, 0)


class _Part(io.RawIOBase):
    """The first bytes of a file, and others behind them."""

    def __init__(self, descriptor: int, length: int, behind: bytes) -> None:
        self._descriptor, self._length, self._behind, self._at = descriptor, length, behind, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        from_where = (0, self._at, self._length + len(self._behind))[whence]
        if from_where + offset < 0:
            raise OSError(22, "Invalid argument")
        self._at = from_where + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is newer
        size = min(len(buffer), self._length - self._at)
        if size > 0:
            read = os.preadv(self._descriptor, [memoryview(buffer)[:size]], self._at)
        else:
            start = self._at - self._length
            data = self._behind[start : start + len(buffer)]
            read = len(data)
            buffer[:read] = data
        self._at += read
        return read
