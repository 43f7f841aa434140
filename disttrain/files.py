"""Paths as a shell user means them, files and folders that are replaced whole, digests, and what tells files apart."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from disttrain.errors import ConfigError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def expand_home(text: str | os.PathLike[str]) -> str:
    """A path with the home folder in the place of `~` or `~user`, as a shell would have it; `./~` is no home folder.

    Raises ConfigError where there is no home folder, for an empty path, and for a URL.
    """
    if not os.fspath(text):
        raise ConfigError("a path is empty: was a shell variable in it not set? Give a path, or leave the option out.")
    if is_url(text) and not Path(text).exists():
        raise ConfigError(
            f"{os.fspath(text)} is a URL: only files and folders of this machine are read and written, nothing is "
            "fetched. Download it or mount it first, and give its path (of file:// what follows that)."
        )
    expanded = os.path.expanduser(text)  # noqa: PTH111 (a Path makes ~ of ./~)
    if expanded.split(os.sep, 1)[0] == "~":
        raise ConfigError(
            f"{os.fspath(text)}: there is no home folder, since HOME is not set and user id {os.getuid()} has no name "
            "here. Write the path in full, or set HOME."
        )
    return expanded


def is_url(text: str | os.PathLike[str]) -> bool:
    """Whether a text has the form of a URL, such as `https://...` or `s3://...`."""
    return _URL.match(os.fspath(text)) is not None


def user_path(text: str | os.PathLike[str]) -> Path:
    """`expand_home` as a Path."""
    return Path(expand_home(text))


def file_identity(path: Path) -> str:
    """A line that is another one as soon as the file is another one, or has other content.

    Name, size and time of change are the same for two files of a reproducible archive; inode number and time of the
    last change of status are set by the system alone. Of a folder only which one it is. Raises OSError.
    """
    status = path.stat()
    place = json.dumps(str(path.resolve()))
    if path.is_dir():
        return f"{place} {status.st_ino}"
    return f"{place} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[TextIO]:
    """A file to write that takes the place of `path` once it is complete: a reader sees the old text or the new, never
    a part, and after an exception the old one is still there. With `durable` it is on the disk by then, so that this
    holds for a crash of the machine too. File names in it that are not UTF-8 keep their bytes. Raises OSError."""
    beside = _name_beside(path)
    try:
        with beside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
        if durable:
            flush_folder(path.parent)
    except OSError as error:  # what a full disk refuses to write comes without a name
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def write_atomically(path: Path, text: str, durable: bool = False) -> None:
    """Replace a file by a whole new one with this text."""
    with replacing(path, durable) as file:
        file.write(text)


def strict_json(value: Any, indent: int | None = None) -> str:
    """JSON as every reader takes it: floats that are not finite become null, for which JSON has no word."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: Any) -> None:
    """`write_atomically`, as strict JSON, for people too."""
    write_atomically(path, strict_json(value, indent=1) + "\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file by a whole new one. Raises OSError."""
    with replacing(path) as file:
        file.buffer.write(data)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `path` once it is complete. Raises OSError."""
    beside = _name_beside(path)
    beside.mkdir(parents=True)
    try:
        yield beside
        replace_folder(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def replace_folder(beside: Path, path: Path, durable: bool = False) -> None:
    """Give a folder that is whole the name `path`, in place of an older one. Raises OSError."""
    if durable:
        flush_folder(beside)
    if path.exists():
        remove_folder(path)
    beside.rename(path)
    if durable:
        flush_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is there whole or not at all. Raises OSError."""
    gone = _name_beside(path)
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def flush_folder(path: Path) -> None:
    """Let the disk have the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
