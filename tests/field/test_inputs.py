"""What people name as input: URLs, folders, globs, zips, and model directories that were edited."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from disttrain.commands.main import main
from disttrain.errors import DataError
from disttrain.models.model_dir import load_model_dir

from .trees import as_folder, as_zip, classes, opened, picture


@pytest.mark.parametrize("url", ["https://example.org/a.png", "file:///etc/a.png", "s3://bucket/chips.zip"])
@pytest.mark.parametrize("command", ["predict", "detect", "data.path", "model", "config"])
def test_a_url_is_told_to_be_one(
    tmp_path: Path, classifier: Path, url: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("data: {name: image_folder}\n")
    line = {
        "predict": ["predict", str(classifier), url],
        "detect": ["detect", str(classifier), url, "--class", "cat"],
        "data.path": ["data", "info", str(tmp_path / "c.yaml"), f"data.path={url}"],
        "model": ["predict", url, "a.png"],
        "config": ["train", url],
    }[command]
    assert main(line) in (2, 3)
    said = capsys.readouterr().err
    assert f"{url} is a URL" in said
    assert "Download it or mount it first" in said


def scene(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (20, 30, 3)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return as_folder(tmp_path / "scenes", {"b.png": scene(1), "a.png": scene(2), "t/c.png": scene(3), "notes.txt": b""})


def detected(model: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str], str]:
    """Exit code, the scenes that have boxes, and what was said."""
    code = main(["detect", str(model), *map(str, arguments), "--class", "dog", "--threshold", "0.01"])
    said = capsys.readouterr()
    return code, list(dict.fromkeys(row["scene"] for row in json.loads(said.out or "[]"))), said.err


def test_folders_and_globs_of_scenes_are_looked_at_in_order(
    scenes: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found, said = detected(classifier, capsys, scenes)
    assert (code, found) == (0, [f"{scenes}/{name}" for name in ("a.png", "b.png", "t/c.png")])
    assert "left out 1 files that are no images by their suffix (1 .txt)" in said
    assert detected(classifier, capsys, f"{scenes}/?.png")[:2] == (0, [f"{scenes}/a.png", f"{scenes}/b.png"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("{}/*.tif",), 3, "*.tif matches no file"),
        (("{}/none.png",), 3, "none.png does not exist"),
        (("{}/../empty",), 3, "holds no images"),
        (("{}/../s.zip",), 3, "is a zip file, and scenes are read in pieces"),
        (("{}", "--image", "{}/../o.png"), 2, "shows one scene, and 3 are given"),
        (("{}/t", "--image", "{}/t/c.png"), 2, "is an input, which would be overwritten"),
        (("{}/b.*", "--image", "{}/b.png"), 2, "is an input, which would be overwritten"),
    ],
)
def test_scenes_that_cannot_be_meant_are_told(
    scenes: Path,
    classifier: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    (scenes.parent / "empty").mkdir()
    as_zip(scenes.parent / "s.zip", {"a.png": scene(1)})
    before = (scenes / "b.png").read_bytes(), (scenes / "t/c.png").read_bytes()
    found = detected(classifier, capsys, *(one.format(scenes) for one in arguments))
    assert found[0] == code
    assert says in found[2]
    assert before == ((scenes / "b.png").read_bytes(), (scenes / "t/c.png").read_bytes())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"class_names": ["cat", "cat"]}, "class_names has 'cat' twice"),
        ({"class_names": [1, 2]}, "are not all text"),
        ({"std": [0, 0, 0]}, "a std is not above 0"),
        ({"std": [float("nan"), 1, 1]}, "are not finite"),
        ({"mean": [128.0]}, "are not one for each of"),
        ({"mean": [], "std": [1, 1, 1]}, "are not one for each of"),
        ({"input_shape": [3, 6.5, 6]}, "is not of whole numbers above 0"),
        ({"input_shape": []}, "are not one for each of"),
        ({"symmetries": [[False, False]]}, "are not of three values each"),
        ({"symmetries": []}, "are not of three values each"),
        ({"class_names": ["cat"]}, "does not fit model"),
    ],
)
def test_a_model_description_that_contradicts_itself_is_refused(
    tmp_path: Path, classifier: Path, change: dict[str, Any], says: str
) -> None:
    shutil.copytree(classifier, tmp_path / "m")
    description = json.loads((tmp_path / "m/model.json").read_text())
    (tmp_path / "m/model.json").write_text(json.dumps(description | change))
    with pytest.raises(DataError) as error:
        load_model_dir(tmp_path / "m")
    assert says in str(error.value)


def test_a_model_description_with_a_byte_order_mark_is_read(tmp_path: Path, classifier: Path) -> None:
    shutil.copytree(classifier, tmp_path / "m")
    text = (classifier / "model.json").read_bytes()
    (tmp_path / "m/model.json").write_bytes(b"\xef\xbb\xbf" + text)
    assert load_model_dir(tmp_path / "m")[1] == load_model_dir(classifier)[1]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (None, "does not exist"),
        (("a.txt",), "is neither a model directory"),
        (("config.yaml", "checkpoints/x"), "is a run without a model yet"),
        (("manifest.json", "values.json"), "is a checkpoint, to go on from"),
    ],
)
def test_a_model_that_is_not_there_is_told_as_what_is(tmp_path: Path, files: tuple[str, ...] | None, says: str) -> None:
    if files is not None:
        as_folder(tmp_path / "m", dict.fromkeys(files, b""))
    with pytest.raises(DataError, match=says):
        load_model_dir(tmp_path / "m")


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("images",), "has a single class, its folder images"),
        (("images", "Masks"), "are named as parts of another form of data"),
        (("cat", "masks"), ""),
    ],
)
def test_folders_that_are_hardly_classes_are_warned_of(
    tmp_path: Path, warnings: Callable[[], str], folders: tuple[str, ...], says: str
) -> None:
    opened(as_folder(tmp_path / "r", {**classes(*folders), "images/z.png": picture(9)} if says else classes(*folders)))
    assert says in warnings() if says else not warnings()
