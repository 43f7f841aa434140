"""What a file is by its first bytes, in words: for messages about files that are not what a reader expects."""

from __future__ import annotations

import zipfile
from pathlib import Path

_MAGIC = (
    (b"PK\3\4", "a zip file"),
    (b"PK\5\6", "a zip file with nothing in it"),
    (b"\x1f\x8b", "gzip data (.gz, .tar.gz)"),
    (b"BZh", "bzip2 data (.bz2, .tar.bz2)"),
    (b"\xfd7zXZ\0", "xz data (.xz, .tar.xz)"),
    (b"\x28\xb5\x2f\xfd", "zstd data (.zst, .tar.zst)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\0\0\x08", "an IDX file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
)
_LOOKED_AT = 4096


def kind_of_bytes(data: bytes) -> str:
    """What these bytes are, with an article; an empty string where that is not known."""
    if not data:
        return "an empty file"
    for start, kind in _MAGIC:
        if data.startswith(start):
            return kind
    if data[257:262] == b"ustar":
        return "a tar archive"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"heif"):
        return "a HEIC photo, which Pillow does not read: convert it to JPEG or PNG"
    return _kind_of_text(data[:_LOOKED_AT])


def _kind_of_text(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig", errors="ignore" if len(data) == _LOOKED_AT else "strict").lstrip().lower()
    except UnicodeDecodeError:
        return ""
    if not text or "\0" in text:
        return ""
    if text.startswith(("<!doctype html", "<html")):
        return "an HTML page, such as a server's answer in place of the file"
    if text.startswith(("<svg", "<?xml")):
        return "an SVG or XML file"
    if text.startswith(("{", "[")):
        return "a JSON file"
    first, _, rest = text.partition("\n")
    if rest and any(sign in first for sign in ",;\t"):
        return "a CSV file"
    return "a text file" if rest or len(text) > 40 else ""


def kind_of_file(path: Path) -> str:
    """What a file is, with an article; `a file of an unknown kind` where that is not known. Raises OSError."""
    with path.open("rb") as file:
        return kind_of_bytes(file.read(_LOOKED_AT)) or "a file of an unknown kind"


def is_zip(path: Path) -> bool:
    """Whether a file is a zip by its content, or is meant as one by its name (it may be damaged)."""
    try:
        return path.is_file() and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path))
    except OSError:
        return False


def starts_json(path: Path) -> bool:
    """Whether a file begins as JSON does. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_LOOKED_AT).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
