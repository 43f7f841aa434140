"""Files that are replaced whole, and their digests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A file to write that takes the place of `path` once it is complete: a reader sees the old text or the new, never
    a part, and after an exception the old one is still there. Raises OSError."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            yield file
        beside.replace(path)
    except OSError as error:  # what a full disk refuses to write comes without a name
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by a whole new one with this text."""
    with replacing(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """`write_atomically`, as JSON for people too."""
    write_atomically(path, json.dumps(value, indent=1) + "\n")


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
