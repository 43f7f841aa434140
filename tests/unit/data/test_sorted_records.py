"""Records sorted through files are those sorted in memory."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from disttrain.data import sorted_records
from disttrain.data.sorted_records import Record, SortedRecords


@pytest.mark.parametrize(("run", "files"), [(1000, 64), (7, 64), (7, 3), (1, 2)])
def test_runs_in_files_are_merged_in_order_and_equal_names_stay_as_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: int, files: int
) -> None:
    monkeypatch.setattr(sorted_records, "_RUN", run)
    monkeypatch.setattr(sorted_records, "_FILES", files)
    odd = [os.fsdecode(b"caf\xe9.png"), "new\nline", 'quote"', "ä", "z\u2028", "", "a/b", "a-b"]
    names = [f"{number:03d}.png" for number in range(100)] * 2 + odd
    random.Random(0).shuffle(names)
    records: list[Record] = [[name, number] for number, name in enumerate(names)]
    sorted_by_files = SortedRecords(tmp_path)
    for record in records:
        sorted_by_files.add(record)
    assert list(sorted_by_files) == sorted(records, key=lambda record: record[0])
    assert list(tmp_path.iterdir()) == []
