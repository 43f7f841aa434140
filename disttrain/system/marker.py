"""Whether two hosts see one folder: one writes a file for a moment, the other looks for it."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path

_POLL_S = 0.1


def nearest_folder(folder: Path) -> Path:
    """The folder, or what is there of the way to it."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def write_marker(folder: Path) -> Path:
    """A new empty file in the nearest folder. Raises OSError."""
    marker = nearest_folder(folder) / f".disttrain-{uuid.uuid4().hex}"
    marker.touch(exist_ok=False)
    return marker


def find_marker(folder: Path, place: str, patience_s: float) -> str | None:
    """Why the marker at `place`, relative to the folder, is not seen here; None once it is.

    Args:
        patience_s: a client of NFS may remember for some seconds that a file was not there.
    """
    marker = Path(os.path.normpath(folder.absolute() / place))
    deadline = time.monotonic() + patience_s
    while not marker.exists():
        if time.monotonic() > deadline:
            return f"a file that rank 0 has just written to {marker.parent} is not there"
        with contextlib.suppress(OSError):
            os.listdir(marker.parent)  # noqa: PTH208 (for its effect: the client asks the server again)
        time.sleep(_POLL_S)
    return None
