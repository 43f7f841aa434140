"""A folder through which several processes add up their figures."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

from disttrain.errors import DataError

SHARED_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own, read when it is imported."""


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
