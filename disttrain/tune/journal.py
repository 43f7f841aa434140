"""`journal.jsonl`, the truth about a search: which points were drawn, what they reported, what ended and why.

One JSON object a line, appended and on the disk before the search goes on. It outlives a kill at any moment: only its
last line can be cut off, and is then dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from disttrain.errors import IntegrityError, say
from disttrain.files import flush_folder, strict_json

Event = dict[str, Any]

JOURNAL = "journal.jsonl"


def read_journal(path: Path) -> list[Event]:
    """The whole lines of a journal; an empty list where there is none.

    Raises IntegrityError for a line that is no event, unless it is the last one and cut off.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [_event(path, number, line) for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1)]


def _event(path: Path, number: int, line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise IntegrityError(
            f"line {number} of {path} is damaged: it is no event of a search. What it said is lost; remove the line to "
            "go on without it (a trial whose end it was goes on from its checkpoint)."
        )
    return event


class Journal:
    """The journal, open to be written by its only writer."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Drop a last line that was cut off. Raises OSError."""
        self._path, self._clock, self._waiting, self._warned = path, clock, b"", False
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        data = path.read_bytes()
        self._size = data.rfind(b"\n") + 1
        os.ftruncate(self._file, self._size)
        flush_folder(path.parent)

    def write(self, event: str, **fields: Any) -> Event:
        """Append one event; what a full disk does not take is kept for the next time. Returns it with its time."""
        whole = {"time": round(self._clock(), 3), "event": event, **fields}
        self._waiting += strict_json(whole).encode() + b"\n"
        try:
            self._flush()
        except OSError as error:
            if not self._warned:
                say(f"warning: {self._path} cannot be written ({error.strerror}); its lines are kept for later.")
            self._warned = True
        return whole

    def _flush(self) -> None:
        """All or nothing: a part of a line would spoil the next one."""
        try:
            written = 0
            while written < len(self._waiting):
                written += os.pwrite(self._file, self._waiting[written:], self._size + written)
            os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(self._waiting)
        self._waiting = b""

    def close(self) -> None:
        """Close the file. Raises OSError where events are left that it does not take."""
        try:
            if self._waiting:
                self._flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        finally:
            os.close(self._file)
