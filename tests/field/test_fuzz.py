"""Damaged files: a minute of them, always the same ones first. `make fuzz` takes as long as one likes."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from .fuzz import Outcome, Target, fuzz, run_case, targets


def test_damaged_files_are_read_or_refused_with_a_reason(capfd: pytest.CaptureFixture[str]) -> None:
    outcome = fuzz(60, seed=0)
    with capfd.disabled():
        print(f"\nfuzz: {outcome.render()}")
    assert outcome.faults == []
    assert set(outcome.by_target) == {target.name for target in targets()}


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_each_reader_takes_the_good_file(target: Target, tmp_path: Path) -> None:
    target.read(target.good, random.Random(0), tmp_path)


def test_a_fault_is_told_with_how_to_run_it_again(tmp_path: Path) -> None:
    def read(data: bytes, draw: random.Random, folder: Path) -> None:
        if data.startswith(b"x"):
            raise LookupError("seven")

    outcome = Outcome()
    for number in range(200):
        run_case([Target("toy", b"x" + b"y" * 20, read)], 3, number, tmp_path, outcome)
    assert 0 < len(outcome.faults) < 200  # damage to the first byte goes unnoticed
    assert "(toy)" in outcome.faults[0]
    assert "LookupError: seven" in outcome.faults[0]
    number = int(outcome.faults[0].split("--only ")[1].split()[0])
    again = Outcome()
    run_case([Target("toy", b"x" + b"y" * 20, read)], 3, number, tmp_path, again)
    assert again.faults[0].splitlines()[0] == outcome.faults[0].splitlines()[0]


def test_a_case_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    def bytes_of(number: int) -> bytes:
        seen: list[bytes] = []
        kinds = [dataclasses.replace(one, read=lambda data, draw, folder: seen.append(data)) for one in targets()]
        run_case(kinds, 5, number, tmp_path, Outcome())
        return seen[0]

    assert [bytes_of(number) for number in range(30)] == [bytes_of(number) for number in range(30)]
