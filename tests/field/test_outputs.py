"""What is written over, and what is written where a network gives no figures."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from disttrain.commands.detect import _PICTURE_FORMATS
from disttrain.commands.output import check_output_file
from disttrain.errors import ConfigError
from disttrain.inference.predictor import Predictor

from .trees import picture, predicted, save_classifier


def test_an_input_is_never_the_output(tmp_path: Path) -> None:
    scene, link = tmp_path / "scene.png", tmp_path / "link.png"
    scene.write_bytes(picture(0))
    link.symlink_to(scene)
    for output in (scene, link):
        with pytest.raises(ConfigError, match="is an input, which would be overwritten"):
            check_output_file("--image", str(output), _PICTURE_FORMATS, "pictures are", [str(scene)])
    check_output_file("--image", str(tmp_path / "new.png"), _PICTURE_FORMATS, "pictures are", [str(scene), "lost.png"])


def test_what_is_printed_as_json_is_not_written_to_a_file_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--json prints on standard output"):
        check_output_file("--output", str(tmp_path / "new.csv"), (".csv",), "predictions are", [], as_json=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_image_without_finite_probabilities_has_no_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    model = save_classifier(tmp_path / "model", 3)
    (tmp_path / "a.png").write_bytes(picture(0))
    monkeypatch.setattr(Predictor, "probabilities", lambda self, images: np.full((len(images), 2), bad, np.float32))
    output = tmp_path / "o.csv"
    rows, message = predicted(model, tmp_path / "a.png", capsys, output)
    assert message.startswith("1 of 1 images could not be read, or have no finite probabilities: see the error column")
    assert rows == list(csv.DictReader(output.open()))
    assert (rows[0]["label"], rows[0]["error"]) == ("", "the network gives no finite probabilities for it")
    (tmp_path / "b.png").write_bytes(b"no image")
    _, message = predicted(model, tmp_path / "?.png", capsys)
    assert message.startswith("2 of 2 images could not be read, or have no finite probabilities")
