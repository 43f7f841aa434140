"""`disttrain export`: the file is loaded in a fresh process that knows nothing of disttrain, and answers alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from field.trees import predicted
from safetensors.numpy import load_file
from torch import nn
from unit.helpers import chips, png, write_folder

from disttrain.config import build_config
from disttrain.errors import ConfigError, DataError, DisttrainError, IntegrityError
from disttrain.inference import export
from disttrain.inference.export import TOLERANCE, export_model
from disttrain.inference.predictor import Predictor
from disttrain.models.build import build_model
from disttrain.models.golden import GOLDEN, Golden
from disttrain.models.model_dir import ModelSpec, load_model_dir, save_model_dir

from .commands import DISTTRAIN, mounted, run

_READERS = {
    "onnx": """
import json, sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
print(json.dumps(session.get_modelmeta().custom_metadata_map), file=sys.stderr)
run = lambda images: session.run(None, {"images": images})[0]
""",
    "torch": """
import json, sys, numpy, torch
found = {"disttrain.json": ""}
module = torch.export.load(sys.argv[1], extra_files=found).module()
print(found["disttrain.json"], file=sys.stderr)
run = lambda images: module(torch.from_numpy(images)).detach().numpy()
""",
}
_READ = """
images = numpy.load(sys.argv[2])
outputs = [run(images[:size]) for size in (len(images), 1, 5)]
assert "disttrain" not in sys.modules
numpy.savez(sys.argv[3], *outputs)
"""
SHAPE = (3, 20, 20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained PlanesNet CNN with golden requests, averaged over flips."""
    return save(tmp_path_factory.mktemp("model") / "model")


def save(folder: Path, name: str = "planesnet_cnn", network: nn.Module | None = None) -> Path:
    torch.manual_seed(0)
    spec = ModelSpec(
        name, {}, 0.0, SHAPE, ("no-plane", "plane"), (100.0, 110.0, 90.0), (50.0, 40.0, 60.0),
        symmetries=((False, False, False), (False, False, True)),
    )  # fmt: skip
    made = network or build_model(build_config({"model": {"name": name}}).model, SHAPE, 2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))  # the last convolutions begin at zero
    images = np.random.RandomState(1).randint(0, 256, (8, *SHAPE)).astype(np.uint8)
    answers = Predictor(made, spec, torch.device("cpu")).probabilities(images)
    save_model_dir(folder, made, spec, Golden(images, answers))
    return folder


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_another_process_gets_the_answers_of_the_original_for_any_number_of_images(
    model: Path, tmp_path: Path, form: str
) -> None:
    output = tmp_path / ("model.onnx" if form == "onnx" else "model.pt2")
    output.write_text("an older one")
    made = run([*DISTTRAIN, "export", str(model), "--format", form, "--output", str(output), "--json"], tmp_path)
    assert made.code == 0, made.err
    said = json.loads(made.out)
    assert said["checked_on"] == "golden requests"
    assert said["largest_difference"] <= said["tolerance"] == TOLERANCE
    assert said["input"] == {"name": "images", "dtype": "uint8", "shape": ["batch", *SHAPE]}
    images = np.random.RandomState(2).randint(0, 256, (70, *SHAPE)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    program = [sys.executable, "-I", "-c", _READERS[form] + _READ]
    read = run([*program, str(output), str(tmp_path / "images.npy"), str(tmp_path / "read.npz")], tmp_path)
    assert read.code == 0, read.err
    described = json.loads(read.err.strip().splitlines()[-1])
    network, spec = load_model_dir(model)
    assert described["weights_sha256"] == spec.weights_sha256 == said["weights_sha256"]
    assert json.loads(described["class_names"]) == list(spec.class_names)
    expected = Predictor(network, spec, torch.device("cpu")).probabilities(images)
    for outputs in np.load(tmp_path / "read.npz").values():
        assert np.abs(outputs - expected[: len(outputs)]).max() < TOLERANCE
    assert np.ptp(expected) > 0.01
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["images.npy", "read.npz", output.name])


def test_predict_takes_the_onnx_file_for_the_model_directory(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "chips", {name: png(image) for name, image in chips(70).items()})
    by_torch, _ = predicted(model, folder, capsys)
    export_model(model, tmp_path / "model.onnx")
    by_onnx, message = predicted(tmp_path / "model.onnx", folder, capsys)
    assert message == ""
    assert len(by_onnx) == 70
    for one, other in zip(by_onnx, by_torch, strict=True):
        assert (one["path"], one["label"]) == (other["path"], other["label"])
        assert float(one["p_plane"]) == pytest.approx(float(other["p_plane"]), abs=TOLERANCE)
    (tmp_path / "other.onnx").write_text("no model")
    assert "is no ONNX model" in predicted(tmp_path / "other.onnx", folder, capsys)[1]


def refused(kind: type[DisttrainError], *given: object, **options: object) -> str:
    with pytest.raises(kind) as error:
        export_model(*given, **options)  # type: ignore[arg-type]
    return str(error.value)


def flip_a_weight(model: Path) -> None:
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)


def change_an_answer(model: Path) -> None:
    golden = load_file(model / GOLDEN)
    Golden(golden["images"], golden["probabilities"][:, ::-1].copy()).save(model)


@pytest.mark.parametrize("damage", [flip_a_weight, change_an_answer])
def test_a_damaged_model_is_not_exported_and_an_older_file_stays(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    model = save(tmp_path / "model")
    damage(model)
    output = tmp_path / "model.pt2"
    output.write_text("an older one")
    assert "differs" in refused(IntegrityError, model, output)
    assert output.read_text() == "an older one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.pt2"]


def test_an_exported_model_that_answers_otherwise_is_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(export._ImageClassifier):
        """As by a mistake of an exporter: the normalisation is another one once the outputs are known."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(255 - images if torch.compiler.is_exporting() else images)

    monkeypatch.setattr(export, "_ImageClassifier", Other)
    assert "does not answer as the original" in refused(IntegrityError, model, tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(1200, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scores(images.flatten(1))


class Branches(TwoHeads):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images if images.mean().item() > 0 else -images)


def test_a_network_that_was_given_as_an_object_is_exported_from_python(tmp_path: Path) -> None:
    model = save(tmp_path / "model", "", TwoHeads())
    assert "let load_model_dir(path, network=...) do it" in refused(ConfigError, model, tmp_path / "a.pt2")
    assert export_model(model, tmp_path / "a.pt2", network=TwoHeads()).largest_difference < TOLERANCE
    assert "does not fit the network that was given" in refused(
        DataError, model, tmp_path / "b.pt2", network=nn.Linear(2, 2)
    )


def test_a_network_that_cannot_be_followed_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = save(tmp_path / "model", "", Branches())
    assert "torch.export does not follow it" in refused(ConfigError, model, tmp_path / "a.pt2", network=Branches())


def test_inputs_that_are_no_images_reach_the_network_as_they_are(tmp_path: Path) -> None:
    spec = ModelSpec("", {}, 0.0, (7,), ("a", "b"))
    save_model_dir(tmp_path / "model", nn.Linear(7, 2), spec)
    made = export_model(tmp_path / "model", None, "torch", network=nn.Linear(7, 2))
    assert (made.checked_on, made.input["dtype"], made.result["name"]) == ("drawn inputs", "float32", "outputs")
    assert made.output == str(tmp_path / "model" / "model.pt2")


def test_options_and_packages_are_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = tmp_path / "nowhere"
    assert "models are written as .onnx or .pt2" in refused(ConfigError, nowhere, tmp_path / "a.txt")
    assert "--format torch is written as .pt2" in refused(ConfigError, nowhere, tmp_path / "a.onnx", "torch")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    message = refused(ConfigError, nowhere, tmp_path / "a.onnx")
    assert message.count("pip install 'disttrain[export]'") == 1
    assert "does not exist: give a model directory" in refused(DataError, nowhere, tmp_path / "a.pt2")


def test_a_full_disk_is_one_message(model: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=64k") as disk:
        message = refused(DataError, model, disk / "a.pt2")
        assert "No space left on device" in message
        assert list(disk.iterdir()) == []
