"""`disttrain serve`: the answers of the API, and what it refuses, by a real process over real HTTP."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from disttrain.commands.main import main

from .serving import Server, chips, form, picture, serving

KEY = "let me in"
LIMITS = ("--max-images", "12", "--max-upload-mb", "1", "--max-pixels", "40000", "--processes", "2")


@pytest.fixture(scope="module")
def server(model_dir: Path) -> Iterator[Server]:
    """Two processes with an API key."""
    with serving(model_dir, *LIMITS, env={"DISTTRAIN_API_KEY": KEY}) as made:
        made.client.headers["X-API-Key"] = KEY
        yield made


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """Drawn chips side by side: uint8 [3, height, width]."""
    images = [np.asarray(Image.open(io.BytesIO(chip))) for chip in chips(24)]
    rows = [np.concatenate(images[at : at + 6], axis=1) for at in range(0, 24, 6)]
    return np.concatenate(rows).transpose(2, 0, 1)


def post(server: Server, images: list[bytes], **options: Any) -> httpx.Response:
    return server.client.post("/v1/predict", files=form(images), **options)


def assert_complete(answer: httpx.Response, description: dict[str, Any]) -> None:
    """Every answer has the model's version and the safe headers, and no path of the server."""
    assert answer.headers["x-model-version"] == description["version"]
    assert answer.headers["x-model-weights-sha256"] == description["weights_sha256"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "server" not in answer.headers
    assert "/tmp" not in answer.text
    assert "Traceback" not in answer.text


def test_the_answers_are_those_of_predict(server: Server, model_dir: Path, tmp_path: Path) -> None:
    images = chips(12)
    for number, data in enumerate(images):
        (tmp_path / f"{number:02d}.png").write_bytes(data)
    assert main(["predict", str(model_dir), str(tmp_path), "--output", str(tmp_path / "p.csv"), "--quiet"]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    together = post(server, images)
    assert together.status_code == 200
    one_by_one = [post(server, [data]).json()["predictions"][0] for data in images]
    encoded = [{"name": f"{number}.png", "data": base64.b64encode(data).decode()} for number, data in enumerate(images)]
    by_json = server.client.post("/v1/predict", json={"images": encoded})
    for predictions in (together.json()["predictions"], one_by_one, by_json.json()["predictions"]):
        assert len(predictions) == len(rows) == 12
        for given, row in zip(predictions, rows, strict=True):
            assert given["label"] == row["label"]
            # The last of six decimals may round otherwise: other batches, other order of sums.
            assert given["probability"] == pytest.approx(float(row["probability"]), abs=1.5e-6)
            for name, value in given["probabilities"].items():
                assert value == pytest.approx(float(row[f"p_{name}"]), abs=1.5e-6)
    assert [given["name"] for given in by_json.json()["predictions"]] == [f"{number}.png" for number in range(12)]


def test_the_boxes_are_those_of_detect(
    server: Server, model_dir: Path, scene: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scene.png").write_bytes(picture(scene))
    command = ["detect", str(model_dir), str(tmp_path / "scene.png"), "--threshold", "0.3", "--quiet"]
    assert main(command) == 0
    expected = [{key: row[key] for key in row if key != "scene"} for row in json.loads(capsys.readouterr().out)]
    assert expected
    answer = server.client.post("/v1/detect?threshold=0.3", files=form([picture(scene)], "scene"))
    assert answer.status_code == 200
    assert answer.json()["boxes"] == expected
    assert (answer.json()["width"], answer.json()["height"]) == (120, 80)
    other = server.client.post("/v1/detect?class_name=no-plane", files=form([picture(scene)], "scene"))
    assert other.json()["class"] == "no-plane"


def test_the_model_is_described(server: Server, model_dir: Path) -> None:
    answer = server.client.get("/v1/model")
    described, written = answer.json(), json.loads((model_dir / "model.json").read_text())
    assert_complete(answer, described)
    assert described["weights_sha256"] == written["weights_sha256"]
    assert described["classes"] == ["no-plane", "plane"]
    assert described["input"] == {"channels": 3, "height": 20, "width": 20, "resized": False}
    assert described["golden"]["checked"] == 8
    assert described["golden"]["largest_difference"] < 1e-4
    assert described["metrics"]["test"]["count"] > 0
    assert described["refused"] is None


def bad_images() -> dict[str, tuple[bytes, str]]:
    """What is no image of the model, each with a word of the reason."""
    good = chips(1)[0]
    pixels = np.asarray(Image.open(io.BytesIO(good))).transpose(2, 0, 1)
    animated = io.BytesIO()
    Image.new("RGB", (30, 20)).save(animated, "GIF", save_all=True, append_images=[Image.new("RGB", (30, 20), "red")])
    floats = io.BytesIO()
    Image.new("F", (20, 20)).save(floats, "TIFF")
    return {
        "cut short": (good[:-200], ""),
        "empty": (b"", "the file is empty"),
        "text": (b"hello", "not an image"),
        "a zip": (b"PK\x03\x04" + bytes(99), "not an image but"),
        "another size": (picture(np.zeros((3, 21, 20), np.uint8)), "is 20x21 pixels, expected 20x20"),
        "a bomb": (picture(np.zeros((3, 201, 200), np.uint8)), "expected 20x20"),
        "animated, another size": (animated.getvalue(), "30x20"),
        "floats": (floats.getvalue(), "floats"),
        "a script": (b"<svg onload='x'/>", "not an image"),
        "damaged inside": (good[:60] + bytes(40) + good[100:], ""),
        "JPEG cut short": (picture(pixels, "JPEG")[:300], ""),
    }


def test_every_bad_image_has_its_reason_and_the_good_ones_are_classified(server: Server) -> None:
    bad = bad_images()
    good = chips(1)
    answer = post(server, [*(data for data, _ in bad.values()), *good])
    assert answer.status_code == 422
    predictions = answer.json()["predictions"]
    assert answer.json()["detail"].startswith("11 of 12 images could not be read")
    for (kind, (_, words)), given in zip(bad.items(), predictions, strict=False):
        assert given.keys() == {"name", "error"}, kind
        assert words in given["error"], kind
    assert predictions[-1]["label"] == post(server, good).json()["predictions"][0]["label"]
    assert_complete(answer, server.client.get("/v1/model").json())


def good_images() -> dict[str, bytes]:
    """One chip in forms that show the same picture."""
    image = Image.open(io.BytesIO(chips(1)[0]))
    made = {"PNG": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True}, "PPM": {}}
    files = {}
    for kind, options in made.items():
        file = io.BytesIO()
        image.save(file, kind, **options)  # type: ignore[arg-type]
        files[kind] = file.getvalue()
    file = io.BytesIO()
    image.convert("RGBA").save(file, "PNG")
    files["alpha"] = file.getvalue()
    file = io.BytesIO()
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(file, "PNG", exif=exif)
    files["turned by EXIF"] = file.getvalue()
    return files


def test_the_same_picture_in_other_forms_has_the_same_answer(server: Server) -> None:
    predictions = post(server, list(good_images().values())).json()["predictions"]
    assert len({one["probability"] for one in predictions}) == 1
    assert not any("error" in one for one in predictions)


@pytest.mark.parametrize(
    ("path", "files", "status", "words"),
    [
        ("/v1/predict", form(chips(13)), 413, "more than 12 images"),
        ("/v1/predict", form([bytes(1 << 20)]), 413, "larger than 1,048,576 bytes"),
        ("/v1/detect", form([picture(np.zeros((3, 201, 200), np.uint8))]), 422, "is 200x201 pixels, more than 40,000"),
        ("/v1/detect", form([b"text"]), 422, "not an image"),
        ("/v1/detect", form([picture(np.zeros((3, 19, 40), np.uint8))]), 422, "smaller than the 20x20"),
        ("/v1/detect", form(chips(2)), 422, "2 scenes"),
        ("/v1/detect?threshold=1", form(chips(1)), 422, "threshold: "),
        ("/v1/detect?threshold=nan", form(chips(1)), 422, "threshold: "),
        ("/v1/detect?class_name=plan", form(chips(1)), 422, "Did you mean 'plane'?"),
        ("/v1/predict", None, 415, "multipart/form-data"),
        ("/v1/nothing", None, 404, "Not Found"),
    ],
)
def test_what_is_refused_says_why(server: Server, path: str, files: Any, status: int, words: str) -> None:
    answer = server.client.post(path, files=files)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert_complete(answer, server.client.get("/v1/model").json())


@pytest.mark.parametrize("given", [{}, {"X-API-Key": "let me"}, {"Authorization": "Bearer x"}, {"X-API-Key": "ü"}])
def test_without_the_key_nothing_of_the_api_answers(server: Server, given: dict[str, str]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in given.items()]
    with httpx.Client(base_url=server.url, headers=encoded) as stranger:
        for path in ("/v1/predict", "/v1/model", "/v1/examples/0.png", "/v1/nothing"):
            answer = stranger.post(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert [stranger.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/")] == [200] * 4


def test_the_key_is_taken_as_a_bearer_token_too(server: Server) -> None:
    answer = httpx.get(f"{server.url}/v1/model", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200


def test_metrics_of_all_processes_are_added_up(server: Server) -> None:
    for _ in range(8):
        with httpx.Client(base_url=server.url, headers=server.client.headers) as client:  # whichever process takes it
            assert client.post("/v1/predict", files=form(chips(3))).status_code == 200
    lines = server.client.get("/metrics").text.splitlines()
    figures = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    assert figures['disttrain_requests_total{path="/v1/predict",status="200"}'] >= 8
    assert figures['disttrain_images_total{outcome="classified"}'] >= 24
    assert figures["disttrain_batch_images_sum"] >= 24
    serving_processes = [value for name, value in figures.items() if name.startswith("disttrain_serving_processes")]
    assert serving_processes == [2.0]


def test_the_openapi_document_has_the_routes_and_the_docs_page_needs_no_network(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/v1/predict", "/v1/detect", "/v1/model", "/healthz", "/readyz"}
    assert "multipart/form-data" in document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    for path in ("/", "/docs"):
        page = server.client.get(path)
        assert page.status_code == 200
        assert "http://" not in page.text
        assert "https://" not in page.text
