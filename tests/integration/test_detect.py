"""`disttrain detect` as a command: the same boxes on any number of workers, every form, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from disttrain.commands.main import main
from disttrain.data.datasets.synthetic import draw_arrays

from .commands import DISTTRAIN, run

ROWS, COLUMNS = 4, 9


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """Drawn chips side by side, a quarter of them planes: uint8 [height, width, 3]."""
    chips = draw_arrays(ROWS * COLUMNS, 7).images.reshape(ROWS, COLUMNS, 3, 20, 20)
    return np.ascontiguousarray(chips.transpose(0, 3, 1, 4, 2).reshape(20 * ROWS, 20 * COLUMNS, 3))


@pytest.fixture
def place(tmp_path: Path, scene: np.ndarray, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `model` and the scene in it."""
    Image.fromarray(scene).save(tmp_path / "scene.png")
    (tmp_path / "model").symlink_to(model_dir)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_workers_write_what_one_writes(place: Path) -> None:
    long = np.tile(np.asarray(Image.open(place / "scene.png"))[:40], (1, 4, 1))
    Image.fromarray(long).save(place / "long.png")  # two tiles
    written = []
    for workers in ("1", "2"):
        scenes = ["scene.png", "long.png", "--threshold", "0.3"]
        outcome = run([*DISTTRAIN, "detect", "model", *scenes, "--workers", workers, "--output", "b.json"], place)
        assert outcome.code == 0, outcome.err
        written.append((place / "b.json").read_bytes())
    assert written[0] == written[1]
    rows = json.loads(written[0])
    assert {row["scene"] for row in rows} == {"scene.png", "long.png"}
    assert all(row["score"] >= 0.3 for row in rows)


def test_every_form_of_result_has_the_same_boxes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["detect", "model", "scene.png", "--quiet", "--threshold", "0.3"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert rows == sorted(rows, key=lambda row: (row["y"], row["x"]))
    assert main([*command, "--output", "b.csv", "--image", "b.jpg"]) == 0
    assert len((place / "b.csv").read_text().splitlines()) == len(rows) + 1
    assert Image.open(place / "b.jpg").size == (20 * COLUMNS, 20 * ROWS)
    assert main([*command, "--output", "b.geojson"]) == 0
    features = json.loads((place / "b.geojson").read_text())["features"]
    assert [feature["properties"] for feature in features] == rows


def test_any_class_can_be_looked_for(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "model", "scene.png", "--class", "no-plane", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_a_scene_that_cannot_be_read_stops_nothing_and_ends_with_3(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (19, 30)).save(place / "chip.png")
    assert (
        main(["detect", "model", "bad.png", "scene.png", "chip.png", "--output", "b.json", "--threshold", "0.3"]) == 3
    )
    assert {row["scene"] for row in json.loads((place / "b.json").read_text())} == {"scene.png"}
    err = capsys.readouterr().err
    assert (
        "error: bad.png not an image. chip.png is 19x30 pixels, smaller than the 20x20 that the model looks at" in err
    )


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["nowhere.png"], 3, "nowhere.png does not exist"),
        (["scene.png", "--output", "b.txt"], 2, "boxes are written as .json, .csv or .geojson"),
        (["scene.png", "--output", "no/b.json"], 2, "does not exist"),
        (["scene.png", "--image", "b.tif"], 2, "pictures are written as .png, .jpg or .jpeg"),
        (["scene.png", "scene.png", "--image", "b.png"], 2, "shows one scene, and 2 are given"),
        (["scene.png", "--class", "plan"], 2, "Did you mean 'plane'?"),
        (["model"], 3, "model holds no images"),
    ],
)
def test_a_mistake_is_one_error_with_its_exit_code(
    arguments: list[str], code: int, expected: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", "model", *arguments]) == code
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("disttrain: error: ") == 1
    assert sorted(path.name for path in place.iterdir()) == ["model", "scene.png"]


@pytest.mark.parametrize("threshold", ["0", "1", "high"])
def test_a_threshold_is_a_probability(threshold: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["detect", "model", "scene.png", "--threshold", threshold])
    assert stopped.value.code == 2
    assert "is not a probability between 0 and 1" in capsys.readouterr().err
