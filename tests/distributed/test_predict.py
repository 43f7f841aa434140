"""`disttrain predict` on any number of workers writes the same file."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
from PIL import Image

from . import rank_parts
from .commands import DISTTRAIN, Commands
from .pool import RankPool

COUNT = 61
NOT_UTF8 = os.fsdecode(b"caf\xe9.png")  # sorted behind the others: a name that the last rank sends


@pytest.fixture
def inputs(commands: Commands) -> list[str]:
    """A folder of pictures, one of them broken, then a single picture and one that is not there."""
    folder = commands.folder / "chips"
    folder.mkdir()
    for index, image in enumerate(rank_parts.planes(COUNT).images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{(index * 37) % COUNT:03d}.png")
    (folder / "007.png").write_bytes(b"not a picture")
    (folder / "060.png").rename(folder / NOT_UTF8)
    return ["chips", "chips/010.png", "missing.png"]


@pytest.fixture
def model_dir(ranks: RankPool) -> Path:
    data = {"name": "rank_parts:planes", "kwargs": {"train": 101, "test": 47}, "split": "official"}
    run = ranks.train(1, model={"name": "planesnet_cnn"}, data=data, train={"epochs": 2})
    return run.folder / "run" / "model"


def test_predictions_are_the_same_bytes_for_one_two_and_three_workers(
    commands: Commands, inputs: list[str], model_dir: Path
) -> None:
    written = []
    for workers in (1, 2, 3):
        name = f"{workers}.csv"
        command: list[str | Path] = [*DISTTRAIN, "predict", model_dir, *inputs, "--workers", str(workers)]
        ended = commands.run([*command, "--output", name])
        assert ended.code == 3, ended.stderr  # two of the images could not be read
        assert ended.stderr.count("2 of 63 images could not be read") == 1
        written.append((commands.folder / name).read_bytes())
    rows = list(csv.DictReader(io.StringIO(os.fsdecode(written[0]))))
    expected = [f"chips/{index:03d}.png" for index in range(COUNT - 1)] + [f"chips/{NOT_UTF8}"] + inputs[1:]
    assert [row["path"] for row in rows] == expected
    assert [index for index, row in enumerate(rows) if row["error"]] == [7, 62]
    assert all(one == written[0] for one in written)
