"""`metrics.jsonl`, the record of a run."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from disttrain.files import strict_json, write_atomically
from disttrain.log import log


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line. Lines that the disk does not take are kept until it does."""

    def __init__(self, path: Path, first_step: int) -> None:
        """Open for the steps after `first_step`: lines of later ones, from a run that was cut off, are dropped."""
        self._path, self._waiting, self._warned = path, b"", False
        if path.exists():
            write_atomically(path, "".join(_lines_up_to(path, first_step)))
        self._file = path.open("ab", buffering=0)

    def write(self, **values: Any) -> None:
        """Append one line, with the time of now unless it has one. Values that are not finite become null: JSON has no
        word for them."""
        rounded = {key: value if key == "time" else _rounded(value) for key, value in values.items()}
        self._waiting += strict_json({"time": round(time.time(), 3), **rounded}).encode() + b"\n"
        try:
            self._flush()
        except OSError as error:
            if not self._warned:
                log.warning("%s cannot be written (%s); its lines are kept for later.", self._path, error.strerror)
            self._warned = True

    def _flush(self) -> None:
        while self._waiting:
            self._waiting = self._waiting[self._file.write(self._waiting) :]

    def close(self) -> None:
        """Close the file. Raises OSError where lines are left that it does not take."""
        with self._file:
            try:
                self._flush()
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._path)) from None


def _lines_up_to(path: Path, step: int) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # the last line of a killed run may be cut short
            if json.loads(line)["step"] <= step:
                yield line + "\n"


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
