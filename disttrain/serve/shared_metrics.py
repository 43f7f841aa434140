"""A folder through which several processes add up their figures."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from disttrain.errors import DataError

SHARED_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own, read when it is imported."""
_FILE_BYTES = 1 << 16


@contextlib.contextmanager
def shared_metrics() -> Iterator[None]:
    """A folder through which the processes add up their figures. Raises DataError where none can be written."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="disttrain-serve-", ignore_cleanup_errors=True)
    except OSError as error:
        raise DataError(
            f"several processes add up their metrics through a small folder, and there is none to be made: "
            f"{error.strerror}. Set TMPDIR to a folder that may be written, or use --processes 1."
        ) from None
    with folder as name:
        os.environ[SHARED_FOLDER_VARIABLE] = name
        try:
            yield
        finally:
            del os.environ[SHARED_FOLDER_VARIABLE]


def reserve_files() -> None:
    """Take the room on the disk for this process's figures, where several processes add them up: what is written to a
    memory map on a full disk ends the process. Raises DataError where there is no room.

    The names are those of prometheus_client, which takes a file that is there as it is; its size is that of its first
    one, and the figures fit well.
    """
    folder = os.environ.get(SHARED_FOLDER_VARIABLE)
    if folder is None or not hasattr(os, "posix_fallocate"):
        return
    for kind in ("counter", "histogram", "gauge_livesum", "gauge_livemax"):
        path = Path(folder) / f"{kind}_{os.getpid()}.db"
        try:
            with path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
        except OSError as error:
            raise DataError(
                f"{path} cannot be written: {error.strerror}. Several processes add up their metrics there: make "
                "room, set TMPDIR to another folder, or use --processes 1."
            ) from None
