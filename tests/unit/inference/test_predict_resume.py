"""What a prediction that did not come to its end leaves, and who may go on with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from field.trees import Alone, as_folder, as_zip, picture, save_classifier

from disttrain.errors import ConfigError, DataError
from disttrain.inference.predict_files import predict_files
from disttrain.inference.predictor import Predictor
from disttrain.launch.env import RankEnv

COUNT = 200


class Stopped(Exception):
    """In the place of a kill."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_classifier(tmp_path / "model", 3)


@pytest.fixture
def chips(tmp_path: Path) -> Path:
    files = {f"{number // 50}/{number * 37 % COUNT:03d}.png": picture(number) for number in range(COUNT)}
    return as_folder(tmp_path / "chips", {**files, "1/broken.png": b"no picture"})


def predict(model: Path, given: Path | str, output: Path, **options: Any) -> None:
    plane: Any = Alone()
    predict_files(model, [str(given)], str(output), "cpu", False, RankEnv.alone(), plane, **options)


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """The network stops after so many batches."""
    whole, left = Predictor.probabilities, [batches]

    def probabilities(self: Predictor, images: np.ndarray) -> np.ndarray:
        if not left[0]:
            raise Stopped
        left[0] -= 1
        return whole(self, images)

    monkeypatch.setattr(Predictor, "probabilities", probabilities)


def interrupted(
    monkeypatch: pytest.MonkeyPatch, model: Path, chips: Path | str, output: Path, batches: int = 3
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, batches)
        with pytest.raises(Stopped):
            predict(model, chips, output)


def blocks(output: Path) -> list[Path]:
    return sorted(Path(f"{output}.parts").glob("blocks/*"))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_resumed_prediction_computes_what_is_missing_and_writes_the_same_bytes(
    tmp_path: Path, model: Path, chips: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    given: Path | str = chips
    if kind == "zip":
        files = {f"{at.parent.name}/{at.name}": at.read_bytes() for at in chips.glob("*/*")}
        given = as_zip(tmp_path / "chips.zip", files)
    whole, output = tmp_path / "whole.csv", tmp_path / "out.csv"
    with pytest.raises(DataError, match="1 of 201 images could not be read"):
        predict(model, given, whole)
    assert not Path(f"{whole}.parts").exists()
    interrupted(monkeypatch, model, given, output)
    done = blocks(output)
    assert len(done) == 3
    assert not output.exists()
    done[0].write_bytes(done[0].read_bytes()[:-7])  # torn, as by a machine that lost its power
    (done[0].parent / ".1234").write_bytes(b"half")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)  # of 7, of which 2 are whole
        with pytest.raises(DataError, match="1 of 201 images could not be read"):
            predict(model, given, output, resume=True)
    assert output.read_bytes() == whole.read_bytes()
    assert [path.name for path in Path(f"{output}.parts").iterdir()] == ["job.json"]
    with monkeypatch.context() as patch:
        stop_after(patch, 0)  # complete: nothing is computed
        with pytest.raises(DataError, match="1 of 201"):
            predict(model, given, output, resume=True)
    output.write_text("changed")
    with pytest.raises(ConfigError, match="was complete, and is gone or has changed since"):
        predict(model, given, output, resume=True)


def test_what_does_not_fit_is_refused_by_name_and_nothing_is_lost(
    tmp_path: Path, model: Path, chips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"
    (chips / "1" / "broken.png").unlink()
    interrupted(monkeypatch, model, chips, output)
    kept = [path.read_bytes() for path in blocks(output)]
    with pytest.raises(ConfigError, match=r"holds 96 of 200 images .* Go on with it by --resume"):
        predict(model, chips, output)
    other = save_classifier(tmp_path / "other", 3)
    with pytest.raises(ConfigError, match=r"--resume: the model of the command that began .* differ \(weights "):
        predict(other, chips, output, resume=True)
    changed = chips / "0" / "000.png"
    before = changed.stat()
    os.utime(changed, ns=(1, 1))
    with pytest.raises(ConfigError, match="--resume: the inputs of the command"):
        predict(model, chips, output, resume=True)
    with pytest.raises(ConfigError, match="--resume: the inputs, the form of the output of the command"):
        predict(model, chips, output, resume=True, as_json=True)
    assert [path.read_bytes() for path in blocks(output)] == kept
    assert before.st_mtime_ns != 1


def test_an_output_of_unknown_origin_is_not_gone_on_with(tmp_path: Path, model: Path, chips: Path) -> None:
    output = tmp_path / "out.csv"
    output.write_text("path,label\n")
    with pytest.raises(ConfigError, match="is there already, and nothing says of which model and inputs it is"):
        predict(model, chips, output, resume=True)
    assert output.read_text() == "path,label\n"
    parts = Path(f"{output}.parts")
    parts.mkdir()
    (parts / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        predict(model, chips, output)
    assert (parts / "mine.txt").read_text() == "mine"


def test_rows_come_in_the_order_of_the_inputs_sorted_within_each(tmp_path: Path, model: Path) -> None:
    names = ["a/z.png", "a-b.png", "a.b/c.png", "b.png", "0.png", "a/b/c.png"]
    folder = as_folder(tmp_path / "f", {name: picture(0) for name in names})
    archive = as_zip(tmp_path / "z.zip", {name: picture(0) for name in names})
    output = folder / "out.jsonl"  # in its own input: neither it nor the folder beside it is an image
    plane: Any = Alone()
    pattern = str(folder / "a*.png")
    predict_files(model, [str(archive), str(folder), pattern], str(output), "cpu", False, RankEnv.alone(), plane)
    paths = [line.split('"')[3] for line in output.read_text().splitlines()]
    expected = [f"{root}/{name}" for root in (archive, folder) for name in sorted(names)]
    assert paths == [*expected, f"{folder}/a-b.png"]
