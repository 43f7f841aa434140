"""Zips without their directory in memory: what Python's `zipfile` finds and reads, found and read."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import pytest

from disttrain.data.zip_directory import ZipReader

NAMES = {"a.png": b"1" * 5000, "sub/ä.png": b"", "sub/": b"", "c\\d.png": os.urandom(70_000), "e.png": b"abc"}


def write(path: Path, method: int = zipfile.ZIP_STORED, comment: bytes = b"", before: bytes = b"") -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in NAMES.items():
            archive.writestr(name, content)
        archive.comment = comment
    path.write_bytes(before + buffer.getvalue())
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("around", [(b"", b""), (b"a comment of some length", b"#!/bin/sh\n" * 99)])
def test_members_and_their_bytes_are_those_of_zipfile(tmp_path: Path, method: int, around: tuple[bytes, bytes]) -> None:
    path = write(tmp_path / "a.zip", method, *around)
    reader = ZipReader(path)
    with zipfile.ZipFile(path) as archive:
        members = list(reader.members())
        assert [one.filename for one in members] == archive.namelist()
        assert [reader.read(one) for one in members] == [archive.read(name) for name in archive.namelist()]
        assert [one.header_offset for one in members] == [one.header_offset for one in archive.infolist()]


def test_more_members_than_the_short_fields_can_count_are_found(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(66_000):
            archive.writestr(zipfile.ZipInfo(f"{number}.png"), b"%d" % number)
    reader = ZipReader(path)
    members = list(reader.members())
    assert [one.filename for one in members] == [f"{number}.png" for number in range(66_000)]
    assert [reader.read(members[number]) for number in (0, 65_535, 65_999)] == [b"0", b"65535", b"65999"]


def test_a_member_larger_than_the_short_fields_can_say_is_described(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.png", "w", force_zip64=True) as file:
        file.write(b"abc")
    (member,) = ZipReader(path).members()
    assert ZipReader(path).read(member) == b"abc"


@pytest.mark.parametrize("damage", ["encrypted", "checksum", "name", "method", "offset"])
def test_a_damaged_member_is_told_as_by_zipfile(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    if damage == "encrypted":
        data[at + 8] |= 1
    elif damage == "checksum":
        data[at + 16] ^= 1
    elif damage == "name":
        data[at + 46] = ord("z")
    elif damage == "method":
        struct.pack_into("<H", data, at + 10, 77)
    elif damage == "offset":
        struct.pack_into("<L", data, at + 42, 40)
    path.write_bytes(data)
    reader = ZipReader(path)
    member = next(reader.members())
    with zipfile.ZipFile(path) as archive:
        with pytest.raises(Exception) as theirs:
            archive.read(archive.infolist()[0])
        with pytest.raises(type(theirs.value)) as ours:
            reader.read(member)
    assert damage == "encrypted" or str(ours.value) == str(theirs.value)
    assert reader.read(list(reader.members())[-1]) == b"abc"


@pytest.mark.parametrize("damage", ["empty", "no end", "directory cut short"])
def test_what_has_no_whole_directory_is_no_zip(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a.zip")
    data = path.read_bytes()
    end = data.index(b"PK\5\6")
    path.write_bytes(
        {
            "empty": b"",
            "no end": data[:end],
            "directory cut short": data[: end - 20] + data[end:],
        }[damage]
    )
    with pytest.raises(zipfile.BadZipFile):
        list(ZipReader(path).members())
