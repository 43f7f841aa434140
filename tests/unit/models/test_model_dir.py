"""A model directory: whole, verified, complete, and nothing in it runs when it is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from disttrain.config.sections import ModelConfig
from disttrain.data.transform import Augmentation
from disttrain.errors import ConfigError, DataError, DisttrainError, IntegrityError
from disttrain.models.build import build_model
from disttrain.models.model_dir import (
    DESCRIPTION,
    WEIGHTS,
    ModelSpec,
    find_model_dir,
    load_model_dir,
    save_model_dir,
    weights_sha256,
)

from ..helpers import data_config

SHAPE = (1, 6, 6)


def spec(model: str = "mnist_mlp", **fields: Any) -> ModelSpec:
    symmetries = Augmentation.build(data_config(quarter_turns=True), 6, 6).symmetries
    complete = {
        "kwargs": {"hidden": 5}, "dropout": 0.1, "input_shape": SHAPE, "class_names": ("a", "b", "ü"), "mean": (1.5,),
        "std": (2.5,), "resize": True, "symmetries": symmetries, "data": {"name": "x", "fingerprint": "f"},
    }  # fmt: skip
    return ModelSpec(model=model, **{**complete, **fields})


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(ModelConfig(name="mnist_mlp", kwargs={"hidden": 5}), SHAPE, 3)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model_dir(tmp_path / "model", network(), spec())
    return tmp_path / "model"


def refused(folder: Path, kind: type[DisttrainError], **arguments: Any) -> str:
    with pytest.raises(kind) as error:
        load_model_dir(folder, **arguments)
    assert type(error.value) is kind
    return str(error.value)


def test_what_was_saved_is_loaded_bit_for_bit_in_evaluation_mode(saved: Path) -> None:
    model, loaded = load_model_dir(saved)
    assert not any(module.training for module in model.modules())
    expected = network().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert loaded == ModelSpec(**{**vars(spec()), "weights_sha256": weights_sha256(expected)})
    images = torch.randn(4, *SHAPE)
    assert torch.equal(model(images), network().eval()(images))


def test_only_two_files_are_there_and_they_are_tensors_and_json(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [DESCRIPTION, WEIGHTS]
    assert sorted(path.name for path in saved.parent.iterdir()) == ["model"]
    assert json.loads((saved / DESCRIPTION).read_text())["class_names"] == ["a", "b", "ü"]
    with safe_open(saved / WEIGHTS, "pt") as file:
        assert set(file.keys()) == set(network().state_dict())


def test_saving_again_replaces_the_whole_directory(saved: Path) -> None:
    (saved / "stray").write_text("")
    save_model_dir(saved, network(1), spec())
    loaded = load_model_dir(saved)[0].state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network(1).state_dict().items())
    assert not (saved / "stray").exists()


def test_a_run_directory_stands_for_the_model_in_it(saved: Path) -> None:
    assert find_model_dir(saved.parent) == find_model_dir(saved) == saved
    (saved.parent / "empty").mkdir()
    with pytest.raises(DataError, match=r"is neither a model directory .* nor a run directory with one in it"):
        find_model_dir(saved.parent / "empty")


def test_the_hash_is_over_float32_bytes_in_name_order() -> None:
    state = {"b": torch.tensor([1.0, 2.0], dtype=torch.float64), "a": torch.tensor([[3.0]]), "count": torch.tensor(5)}
    expected = hashlib.sha256(b"\x00\x00\x40\x40" + b"\x00\x00\x80\x3f" + b"\x00\x00\x00\x40").hexdigest()
    assert weights_sha256(state) == expected
    assert weights_sha256({key: state[key] for key in ("a", "b")}) == expected


def test_a_flipped_byte_in_the_weights_is_an_integrity_error(saved: Path) -> None:
    content = bytearray((saved / WEIGHTS).read_bytes())
    content[-3] ^= 1
    (saved / WEIGHTS).write_bytes(content)
    assert "is not what model.json describes: its sha256 differs" in refused(saved, IntegrityError)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_weights_that_are_cut_short_are_a_data_error(saved: Path, kept: int) -> None:
    content = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(content[:kept])
    assert "Copy the model directory again" in refused(saved, DataError)


def test_missing_weights_are_a_data_error(saved: Path) -> None:
    (saved / WEIGHTS).unlink()
    assert WEIGHTS in refused(saved, DataError)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:50],
        lambda text: "[1]",
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"class_names"', '"class_nmes"'),
        lambda text: text.replace('"resize"', '"rezise"'),
        lambda text: text.replace('"dropout"', '"drop"'),
    ],
)
def test_a_description_that_is_damaged_is_a_data_error(saved: Path, change: Callable[[str], str]) -> None:
    before = (saved / DESCRIPTION).read_text()
    (saved / DESCRIPTION).write_text(change(before))
    assert change(before) != before
    assert "is not a model description" in refused(saved, DataError)


def test_weights_of_another_network_are_a_data_error(saved: Path) -> None:
    text = (saved / DESCRIPTION).read_text()
    (saved / DESCRIPTION).write_text(text.replace('"hidden": 5', '"hidden": 6'))
    assert "does not fit model 'mnist_mlp'" in refused(saved, DataError)


def test_a_model_made_by_code_is_loaded_only_on_demand(
    tmp_path: Path, user_module: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = user_module("""
        from torch import nn
        print("imported")
        def make(class_count):
            return nn.Sequential(nn.Flatten(), nn.Linear(36, class_count))
    """)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    save_model_dir(tmp_path / "model", net, spec(f"{name}:make", kwargs={}))
    message = refused(tmp_path / "model", ConfigError)
    assert f"was made by the code '{name}:make'" in message
    assert "--allow-code" in message
    assert capsys.readouterr().out == ""
    model, _ = load_model_dir(tmp_path / "model", allow_code=True)
    assert torch.equal(model.get_parameter("1.weight"), net.get_parameter("1.weight"))
    assert capsys.readouterr().out == "imported\n"


def test_a_network_given_as_an_object_is_saved_but_not_rebuilt(tmp_path: Path) -> None:
    save_model_dir(tmp_path / "model", nn.Linear(2, 3), spec(""))
    for allow_code in (False, True):
        message = refused(tmp_path / "model", ConfigError, allow_code=allow_code)
        assert "given as an object: load model.safetensors into it yourself" in message


def test_tied_weights_are_saved_under_both_names(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

    net = Tied()
    save_model_dir(tmp_path / "model", net, spec(""))
    with safe_open(tmp_path / "model" / WEIGHTS, "pt") as file:
        assert torch.equal(file.get_tensor("first.weight"), net.first.weight)
        assert torch.equal(file.get_tensor("second.weight"), net.first.weight)


def test_weights_in_another_memory_order_are_saved_and_hashed_the_same(tmp_path: Path) -> None:
    net = nn.Conv2d(3, 4, 3)
    plain = save_model_dir(tmp_path / "plain", net, spec("")).weights_sha256
    turned = save_model_dir(tmp_path / "turned", net.to(memory_format=torch.channels_last), spec("")).weights_sha256
    assert plain == turned
    assert (tmp_path / "plain" / WEIGHTS).read_bytes() == (tmp_path / "turned" / WEIGHTS).read_bytes()
