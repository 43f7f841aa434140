"""`disttrain predict` on any number of workers writes the same file."""

from __future__ import annotations

import csv
import io
import os
import subprocess
from collections.abc import Iterator
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


@pytest.fixture
def many(commands: Commands, inputs: list[str]) -> str:
    """A folder of 4,000 names for the pictures, and the broken one among them."""
    folder = commands.folder / "many"
    folder.mkdir()
    pictures = sorted((commands.folder / "chips").iterdir())
    for number in range(4000):
        os.link(pictures[number * 7 % COUNT], folder / f"{number:04d}.png")
    return "many"


def predict(model_dir: Path, given: str, output: Path | str, *options: str) -> list[str | Path]:
    return [*DISTTRAIN, "predict", model_dir, given, "--output", output, *options]


def test_two_killed_ranks_and_a_resume_on_another_number_leave_the_bytes_of_one_whole_run(
    commands: Commands, many: str, model_dir: Path
) -> None:
    running = commands.start(predict(model_dir, many, "out.csv", "--workers", "2"))
    blocks = commands.folder / "out.csv.parts" / "blocks"
    running.poll(lambda: len(list(blocks.glob("[0-9]*"))) > 2, "blocks are written")
    running.kill()
    done = {path.name: path.stat().st_mtime_ns for path in blocks.glob("[0-9]*")}
    assert 2 < len(done) < 62
    assert not (commands.folder / "out.csv").exists()
    refused = commands.run(predict(model_dir, many, "out.csv"))
    assert refused.code == 2
    assert "of 4,000 images of a command that did not come to its end" in refused.stderr
    assert {path.name: path.stat().st_mtime_ns for path in blocks.glob("[0-9]*")} == done
    resumed = commands.run(predict(model_dir, many, "out.csv", "--resume", "--workers", "3"))
    assert "going on with out.csv" in resumed.stderr
    whole = commands.run(predict(model_dir, many, "whole.csv", "--workers", "1"))
    assert (resumed.code, whole.code) == (3, 3)  # one picture is broken
    assert (commands.folder / "out.csv").read_bytes() == (commands.folder / "whole.csv").read_bytes()
    assert not (commands.folder / "whole.csv.parts").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_one_message_and_what_was_written_is_gone_on_with(
    commands: Commands, many: str, model_dir: Path, small_disk: Path
) -> None:
    output = small_disk / "out.csv"
    full = commands.run(predict(model_dir, many, output, "--workers", "2"))
    assert full.code == 3
    assert full.stderr.count("No space left on device") == 1, full.stderr
    assert "go on by --resume" in full.stderr
    kept = list((small_disk / "out.csv.parts" / "blocks").glob("[0-9]*"))
    assert kept
    assert not output.exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    resumed = commands.run(predict(model_dir, many, output, "--resume"))
    assert resumed.code == 3
    assert "going on with" in resumed.stderr
    whole = commands.run(predict(model_dir, many, "whole.csv"))
    assert whole.code == 3
    assert output.read_bytes() == (commands.folder / "whole.csv").read_bytes()


def test_several_ranks_print_on_standard_output_what_one_prints(
    commands: Commands, inputs: list[str], model_dir: Path
) -> None:
    command: list[str | Path] = [*DISTTRAIN, "predict", model_dir, "chips", "--json", "--quiet"]
    printed = [commands.run([*command, "--workers", workers]).stdout for workers in ("1", "2")]
    assert len(printed[0].splitlines()) == COUNT
    assert printed[0] == printed[1]
