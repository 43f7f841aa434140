"""The memory of `disttrain predict` does not grow with the number of files."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

import pytest
from field.trees import picture, save_classifier

from .commands import run

FEW, MANY = 25_000, 150_000
_ALLOWED_KB = 20_000
"""125,000 names of 100 characters are 18,000 kB once, without what keeps them; the index of the list is 31 kB."""

_PROGRAM = """
import resource, sys
import disttrain.inference.predict_files
from disttrain.commands.main import main
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here: imports have one of their own
code = main(["predict", *sys.argv[1:], "--quiet"])
own = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("peak", own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Not getrusage for the process itself: what that says begins with the memory of whoever started it."""


def name(number: int) -> str:
    return f"{number:07d}_{'x' * 80}.png"


def make(kind: str, place: Path, count: int) -> Path:
    """Files that are no images but the first, so that most of the time goes to names."""
    if kind == "zip":
        path = place / f"{count}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name(0), picture(0))
            for number in range(1, count):
                archive.writestr(zipfile.ZipInfo(name(number)), b"x")
        return path
    folder = place / str(count)
    folder.mkdir()
    (folder / name(0)).write_bytes(picture(0))
    (folder / "other").write_bytes(b"x")
    for number in range(1, count):
        if number % 20_000 == 1:  # a file has 65,000 names at most
            source = folder / name(number)
            source.write_bytes(b"x")
        else:
            (folder / name(number)).hardlink_to(source)
    return folder


def peak_kb(model: Path, given: Path, place: Path) -> int:
    output = place / f"{given.name}.csv"
    ended = run([sys.executable, "-c", _PROGRAM, str(model), str(given), "--output", str(output)], place)
    found = re.search(r"peak (\d+) (\d+)", ended.out)
    assert found is not None, ended.err
    with output.open() as file:
        lines = sum(1 for _ in file)
    assert lines == 1 + int(given.stem)
    return max(map(int, found.groups()))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_peak_is_that_of_fewer_files(tmp_path: Path, kind: str) -> None:
    model = save_classifier(tmp_path / "model", 3)
    few, many = (peak_kb(model, make(kind, tmp_path, count), tmp_path) for count in (FEW, MANY))
    assert many - few < _ALLOWED_KB
