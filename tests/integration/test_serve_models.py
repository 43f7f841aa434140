"""A server's models: a newer one takes over under load, another that cannot be trusted does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from disttrain.files import replace_folder
from disttrain.inference.export import export_model
from disttrain.inference.onnx_predictor import ONNX
from disttrain.models.golden import GOLDEN

from .serving import Clients, Server, chips, form, other_model, serving, until


@pytest.fixture
def place(tmp_path: Path, model_dir: Path) -> Path:
    """A folder with `model`, a copy that may be replaced."""
    shutil.copytree(model_dir, tmp_path / "model")
    return tmp_path


def described(server: Server) -> dict[str, Any]:
    content: dict[str, Any] = server.client.get("/v1/model").json()
    return content


def test_a_newer_model_takes_over_under_load_and_no_request_fails(place: Path) -> None:
    model = place / "model"
    other_model(model, place / "newer")
    shutil.copytree(model, place / "older")
    with serving(model) as server:
        first = described(server)["version"]
        with Clients(server.url, {}) as clients:
            until(lambda: len(clients.answers) > 20, "requests are answered")
            replace_folder(place / "newer", model)
            until(lambda: described(server)["version"] != first, "the newer model serves")
            seen = len(clients.answers)
            until(lambda: len(clients.answers) > seen + 20, "requests are answered")
            replace_folder(place / "older", model)
            until(lambda: described(server)["version"] == first, "the first model serves again")
            seen = len(clients.answers)
            until(lambda: len(clients.answers) > seen + 20, "requests are answered")
        assert clients.failures == []
        assert len(set(clients.answers)) == 2
        outcome = server.stop()
    assert outcome.code == 0
    assert f"version {first} is replaced by version" in outcome.err


def test_a_link_that_moves_is_followed(place: Path) -> None:
    other_model(place / "model", place / "newer")
    (place / "live").symlink_to("model")
    with serving(place / "live") as server:
        first = described(server)["version"]
        (place / "next").symlink_to("newer")
        (place / "next").replace(place / "live")
        until(lambda: described(server)["version"] != first, "the newer model serves")


def test_a_model_that_does_not_answer_as_its_training_did_is_not_taken(place: Path) -> None:
    model = place / "model"
    other_model(model, place / "liar", honest=False)
    other_model(model, place / "honest")
    with serving(model) as server:
        first = described(server)
        replace_folder(place / "liar", model)
        refused = until(lambda: described(server)["refused"], "the model is refused")
        assert "does not answer its golden requests as its training did" in refused["reason"]
        assert described(server)["version"] == first["version"]
        assert "disttrain_model_refused 1.0" in server.client.get("/metrics").text
        replace_folder(place / "honest", model)
        until(lambda: described(server)["version"] != first["version"], "the honest model serves")
        assert described(server)["refused"] is None
        outcome = server.stop()
    assert "is not taken, and version" in outcome.err


def test_a_directory_that_is_damaged_or_half_written_is_not_taken(place: Path) -> None:
    model = place / "model"
    with serving(model) as server:
        first = described(server)
        weights = (model / "model.safetensors").read_bytes()
        (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])
        refused = until(lambda: described(server)["refused"], "the model is refused")
        assert "cannot be read" in refused["reason"]
        assert str(place) not in json.dumps(refused)
        assert server.client.post("/v1/predict", files=form(chips(1))).status_code == 200
        (model / "model.safetensors").write_bytes(weights)
        until(lambda: described(server)["refused"] is None, "what was whole before is whole again")
        shutil.rmtree(model)
        assert described(server)["version"] == first["version"]


def test_a_model_without_golden_requests_serves_and_says_so(place: Path) -> None:
    (place / "model" / GOLDEN).unlink()
    with serving(place / "model") as server:
        assert described(server)["golden"] == {"checked": 0, "largest_difference": None}
        assert server.client.get("/v1/examples/0.png").status_code == 404
        outcome = server.stop()
    assert "unchecked: the directory has no golden requests" in outcome.err


def test_an_exported_model_is_computed_by_onnxruntime_and_one_of_other_weights_is_refused(place: Path) -> None:
    model = place / "model"
    files = form(chips(3))
    with serving(model) as server:
        assert described(server)["runtime"] == "torch"
        by_torch = server.client.post("/v1/predict", files=files).json()["predictions"]
        export_model(model)
        until(lambda: described(server)["runtime"] == "onnxruntime", "the exported model serves")
        by_onnx = server.client.post("/v1/predict", files=files).json()["predictions"]
        for one, other in zip(by_torch, by_onnx, strict=True):
            assert one["label"] == other["label"]
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
        scene = server.client.get("/v1/examples/scene.png").content
        assert server.client.post("/v1/detect", files={"scene": ("scene.png", scene)}).status_code == 200
        first = described(server)
        other_model(model, place / "newer")
        shutil.copy(model / ONNX, place / "newer" / ONNX)
        replace_folder(place / "newer", model)
        refused = until(lambda: described(server)["refused"], "the export of other weights is refused")
        assert "has other weights than the model directory" in refused["reason"]
        assert described(server)["version"] == first["version"]
        (model / ONNX).unlink()
        until(lambda: described(server)["version"] != first["version"], "the newer model serves")
        assert described(server)["runtime"] == "torch"
        server.stop()
