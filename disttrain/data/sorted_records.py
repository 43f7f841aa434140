"""More records than memory should hold, sorted by name: runs of them go to files, which are merged."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

Record = list[Any]
"""What JSON can hold; the first one is the name to sort by."""

_RUN = 20_000  # records in memory
_FILES = 64  # that are merged at a time
_name = itemgetter(0)


class SortedRecords:
    """Put records in, then take them out sorted by name (as Python sorts texts); equal ones in the order they came."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where files without a name lie for as long as this needs them."""
        self._folder = folder
        self._run: list[Record] = []
        self._files: list[IO[str]] = []

    def add(self, record: Record) -> None:
        """Raises OSError."""
        self._run.append(record)
        if len(self._run) >= _RUN:
            self._spill(self._sorted_run())
            if len(self._files) == _FILES:
                files, self._files = self._files, []
                self._spill(_merged(files))

    def _sorted_run(self) -> list[Record]:
        run, self._run = self._run, []
        run.sort(key=_name)
        return run

    def _spill(self, records: Iterator[Record] | list[Record]) -> None:
        file = tempfile.TemporaryFile("w+", encoding="ascii", dir=self._folder)  # noqa: SIM115 (closed once it is merged)
        for record in records:
            file.write(json.dumps(record) + "\n")
        file.seek(0)
        self._files.append(file)

    def __iter__(self) -> Iterator[Record]:
        """Once. Raises OSError."""
        files, self._files = self._files, []
        yield from _merged(files, self._sorted_run())


def _merged(files: list[IO[str]], last: list[Record] | None = None) -> Iterator[Record]:
    yield from heapq.merge(*(map(json.loads, file) for file in files), last or [], key=_name)
    for file in files:
        file.close()
