"""A trained model to hand on: tensors and JSON, enough to use it anywhere, and nothing that runs when it is loaded."""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from disttrain.config.sections import ModelConfig
from disttrain.data.transform import NO_SYMMETRIES, Symmetry
from disttrain.errors import ConfigError, DataError, IntegrityError
from disttrain.files import replacing_folder, strict_json
from disttrain.models.build import MODELS, build_model
from disttrain.models.golden import Golden

WEIGHTS, DESCRIPTION, METRICS = "model.safetensors", "model.json", "metrics.json"
_FORMAT = 1


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model but its weights: the content of `model.json`."""

    model: str
    """As `model.name` in the config; empty for a network that was given as an object."""
    kwargs: dict[str, Any]
    dropout: float
    input_shape: tuple[int, ...]
    """[channels, height, width] for images."""
    class_names: tuple[str, ...]
    mean: tuple[float, ...] = ()
    """Per channel, in pixel values 0 to 255; empty where inputs are not uint8 images."""
    std: tuple[float, ...] = ()
    resize: bool = False
    symmetries: tuple[Symmetry, ...] = NO_SYMMETRIES
    """(transpose, flip top-bottom, flip left-right) over which predictions are averaged."""
    data: dict[str, Any] = field(default_factory=dict)
    """Where it was trained: the config's `data` section, and the fingerprint of data and split."""
    weights_sha256: str = ""


def weights_sha256(state: dict[str, torch.Tensor]) -> str:
    """sha256 over the float32 bytes of all floating-point tensors in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if state[name].is_floating_point():
            digest.update(state[name].detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_model_dir(
    folder: Path,
    model: nn.Module,
    spec: ModelSpec,
    golden: Golden | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """Write the directory beside and rename it, so that it is whole or not there. Returns the spec with its hash.

    `metrics`: what is known of its quality, for whoever serves it. Raises OSError.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    spec = ModelSpec(**{**asdict(spec), "weights_sha256": weights_sha256(state)})
    with replacing_folder(folder) as beside:
        # Tied weights are one storage under two names, which safetensors refuses: write each name its own copy.
        try:
            save_file({name: tensor.clone() for name, tensor in state.items()}, beside / WEIGHTS)
        except SafetensorError as error:
            raise OSError(errno.EIO, f"cannot be written ({error})", str(beside / WEIGHTS)) from None
        description = {"format": _FORMAT, **asdict(spec)}
        (beside / DESCRIPTION).write_text(strict_json(description, indent=1) + "\n", encoding="utf-8")
        if golden is not None:
            golden.save(beside)
        if metrics is not None:
            (beside / METRICS).write_text(strict_json(metrics, indent=1) + "\n", encoding="utf-8")
    return spec


def find_model_dir(path: Path) -> Path:
    """The model directory at `path`, which may be a run directory. Raises DataError."""
    for folder in (path, path / "model"):
        if (folder / DESCRIPTION).is_file():
            return folder
    if not path.exists():
        raise DataError(f"{path} does not exist: give a model directory, or a run directory with a model in it.")
    if (path / "config.yaml").is_file() and (path / "checkpoints").is_dir():
        raise DataError(f"{path} is a run without a model yet, which is written at its end: let the training finish.")
    if (path / "manifest.json").is_file() and (path / "values.json").is_file():
        raise DataError(f"{path} is a checkpoint, to go on from: the model is in the run's folder model, at its end.")
    raise DataError(
        f"{path} is neither a model directory ({DESCRIPTION}, {WEIGHTS}) nor a run directory with one in it."
    )


def load_model_dir(
    path: Path, allow_code: bool = False, network: nn.Module | None = None
) -> tuple[nn.Module, ModelSpec]:
    """The network in evaluation mode, on the CPU, and its description.

    Args:
        allow_code: import `package.module:function` where the model was made by one.
        network: takes the weights, where it was given to `fit` as an object; by default it is built as described.
    Raises DataError (missing or damaged files), IntegrityError (weights that are not those described) or ConfigError
    (a model made by code that was not allowed, or given as an object).
    """
    folder = find_model_dir(path)
    spec = _load_spec(folder / DESCRIPTION)
    if network is None:
        _check_can_be_built(folder, spec, allow_code)
    try:
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder / WEIGHTS} cannot be read: {error}. Copy the model directory again.") from None
    if weights_sha256(state) != spec.weights_sha256:
        raise IntegrityError(
            f"{folder / WEIGHTS} is not what {DESCRIPTION} describes: its sha256 differs. Copy it again."
        )
    if network is None:
        config = ModelConfig(name=spec.model, dropout=spec.dropout, kwargs=spec.kwargs)
        network = build_model(config, spec.input_shape, len(spec.class_names))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        name = f"model {spec.model!r}" if spec.model else "the network that was given"
        raise DataError(f"{folder / WEIGHTS} does not fit {name}: {error}") from None
    return network.eval(), spec


def _check_can_be_built(folder: Path, spec: ModelSpec, allow_code: bool) -> None:
    if spec.model in MODELS or spec.model.startswith("torchvision:"):
        return
    if not spec.model:
        raise ConfigError(
            f"{folder} holds the weights of a network that was given as an object: load {WEIGHTS} into it yourself, or "
            "let load_model_dir(path, network=...) do it (docs/api.md)."
        )
    if not allow_code:
        raise ConfigError(
            f"{folder} was made by the code {spec.model!r}, and loading a model runs no code unasked. Add "
            "--allow-code if you trust the module of that name on this machine."
        )


def _load_spec(path: Path) -> ModelSpec:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if content.pop("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        return spec_of(content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is not a model description: {error}.") from None


def spec_of(content: Mapping[str, Any]) -> ModelSpec:
    """From its fields as JSON has them. Raises TypeError, KeyError, ValueError for others."""
    tuples = {key: tuple(content[key]) for key in _TUPLES}
    spec = ModelSpec(**{**content, **tuples, "symmetries": tuple(map(tuple, content["symmetries"]))})
    _check_spec(spec)
    return spec


_TUPLES = ("input_shape", "class_names", "mean", "std")


def _check_spec(spec: ModelSpec) -> None:
    """Raise ValueError or TypeError where a description contradicts itself: a wrong answer would be the consequence."""
    names, channels = spec.class_names, spec.input_shape[:1]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"class_names has {twice[0]!r} twice")
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names {list(names)} are not all text")
    if not all(type(size) is int and size > 0 for size in spec.input_shape):
        raise ValueError(f"input_shape {list(spec.input_shape)} is not of whole numbers above 0")
    if len(spec.mean) != len(spec.std) or (spec.mean and (len(spec.mean),) != channels):
        raise ValueError(f"mean {list(spec.mean)} and std {list(spec.std)} are not one for each of {channels} channels")
    if not all(map(math.isfinite, (*spec.mean, *spec.std))) or not all(value > 0 for value in spec.std):
        raise ValueError(f"mean {list(spec.mean)} and std {list(spec.std)} are not finite, or a std is not above 0")
    if not spec.symmetries or not all(len(one) == 3 for one in spec.symmetries):
        raise ValueError(f"symmetries {spec.symmetries} are not of three values each")
