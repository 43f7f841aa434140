"""`disttrain export`: a model directory as one file that other runtimes load, checked against the original."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import uuid
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from disttrain.data.transform import Augmentation, ImageTransform
from disttrain.errors import ConfigError, DataError, IntegrityError
from disttrain.files import file_sha256, strict_json
from disttrain.inference.onnx_predictor import ONNX
from disttrain.models.golden import load_golden
from disttrain.models.model_dir import ModelSpec, find_model_dir, load_model_dir
from disttrain.models.tta import averaged_outputs

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
_DEFAULT_NAMES = {"onnx": ONNX, "torch": "model.pt2"}
TOLERANCE = 1e-4
"""Largest difference of an output to the original's: float32 in another order of summation differs by far less."""

DRAWN = "drawn inputs"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_DRAWN_COUNT = 8
_TRACED = 3  # samples; not 1, which would be taken for the only size
_INPUT, _PROBABILITIES, _OUTPUTS = "images", "probabilities", "outputs"


@dataclass(frozen=True)
class Exported:
    """What was written, and how near to the original it is."""

    output: str
    format: str
    sha256: str
    weights_sha256: str
    input: dict[str, Any]
    """`name`, `dtype`, `shape`; the first dimension is free."""
    result: dict[str, Any]
    """`name`, `dtype`, `shape`."""
    class_names: tuple[str, ...]
    checked_on: str
    """`golden requests`, or `drawn inputs` where the model directory has none."""
    largest_difference: float
    tolerance: float = TOLERANCE

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return asdict(self)


class _ImageClassifier(nn.Module):
    """uint8 images -> probabilities: normalisation and symmetries are part of it."""

    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, model: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.model, self.symmetries = model, spec.symmetries
        transform = ImageTransform(spec.mean, spec.std, Augmentation(), 0, torch.device("cpu"))
        draws = transform.draw(torch.empty(0), None)
        self.register_buffer("scale", draws.scale)
        self.register_buffer("offset", draws.offset)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [n, channels, height, width] -> float32 [n, classes]"""
        inputs = images.float() * self.scale + self.offset
        return averaged_outputs(self.model, inputs, self.symmetries).float().softmax(1)


def export_model(
    model_dir: Path,
    output: Path | None = None,
    form: str | None = None,
    allow_code: bool = False,
    network: nn.Module | None = None,
) -> Exported:
    """Write a model as ONNX or as a program of `torch.export`, with any number of samples in a batch.

    The file takes uint8 images and gives probabilities; of a model whose inputs are no images it takes those, float32,
    and gives what the network does. It is read back and compared with the original before it gets its name.

    Args:
        output: a `.onnx` or `.pt2` file; None: `model.onnx` or `model.pt2` in the model directory.
        form: `onnx` or `torch`; None: as `output` says, else `onnx`.
        allow_code, network: see `load_model_dir`.
    Raises ConfigError (options, packages that are missing, a network that cannot be exported), DataError (damaged
    files, a disk that takes no more), IntegrityError (outputs differ from the original's).
    """
    form = form_of(output, form)
    check_packages(form)
    model, spec = load_model_dir(model_dir, allow_code, network)
    folder = find_model_dir(model_dir)
    target = output or folder / _DEFAULT_NAMES[form]
    whole = _ImageClassifier(model, spec).eval() if spec.mean else model
    inputs, expected, checked_on = _real_inputs(whole, spec, folder)
    program = _traced(whole, inputs)
    exported = _as_onnx(program, spec) if form == "onnx" else _as_torch(program, spec)
    try:
        beside = target.with_name(f".{uuid.uuid4().hex[:8]}{SUFFIXES[form]}")
        try:
            _write(beside, exported)
            run = _open_onnx(beside) if form == "onnx" else _open_torch(beside)
            difference = _largest_difference(run, inputs, expected)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"--output {target} cannot be written: {error.strerror or error}.") from None
    return Exported(
        str(target), form, file_sha256(target), spec.weights_sha256,
        {"name": _INPUT, "dtype": str(inputs.dtype), "shape": ["batch", *inputs.shape[1:]]},
        {"name": _result_name(spec), "dtype": str(expected.dtype), "shape": ["batch", *expected.shape[1:]]},
        spec.class_names, checked_on, difference,
    )  # fmt: skip


def form_of(output: Path | None, form: str | None) -> str:
    """`onnx` or `torch`. Raises ConfigError where the name of the file says something else."""
    by_name = {suffix: one for one, suffix in SUFFIXES.items()}
    if output is None:
        return form or "onnx"
    found = by_name.get(output.suffix.lower())
    if found is None or (form is not None and form != found):
        wanted = f"--format {form} is written as {SUFFIXES[form]}" if form else "models are written as .onnx or .pt2"
        raise ConfigError(f"--output {output}: {wanted}.")
    return found


def check_packages(form: str) -> None:
    """Raise ConfigError where packages for this form are not installed."""
    missing = [name for name in _PACKAGES if form == "onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--format onnx needs {', '.join(missing)}: pip install 'disttrain[export]'. --format torch needs nothing."
        )


def _real_inputs(whole: nn.Module, spec: ModelSpec, folder: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Inputs, the original's outputs for them, and what they are. Raises DataError, IntegrityError."""
    golden = load_golden(folder, spec.input_shape, len(spec.class_names)) if spec.mean else None
    if golden is not None:
        inputs, checked_on = golden.images, "golden requests"
    else:
        drawn = np.random.RandomState(0)
        shape = (_DRAWN_COUNT, *spec.input_shape)
        if spec.mean:
            inputs = drawn.randint(0, 256, shape).astype(np.uint8)
        else:
            inputs = drawn.standard_normal(shape).astype(np.float32)
        checked_on = DRAWN
    try:
        with torch.inference_mode():
            expected = whole(torch.from_numpy(inputs))
    except Exception as error:
        raise ConfigError(f"the network does not take inputs of shape {list(inputs.shape)}: {error}") from error
    if not isinstance(expected, torch.Tensor) or len(expected) != len(inputs):
        raise ConfigError("the network does not give one tensor with a row for each input, which is what is exported.")
    if golden is not None:
        golden.check(expected.numpy())
    if not expected.isfinite().all():
        raise DataError("the network gives outputs that are not finite. Train it again.")
    return inputs, expected.numpy(), checked_on


def _traced(whole: nn.Module, inputs: np.ndarray) -> torch.export.ExportedProgram:
    """Raises ConfigError where torch cannot follow the network."""
    example = torch.from_numpy(np.resize(inputs, (_TRACED, *inputs.shape[1:])))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(
                whole, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
            )
    except Exception as error:  # as many types as there are ways not to follow a network
        raise ConfigError(
            f"the network cannot be exported: torch.export does not follow it ({_first_line(error)}). What depends on "
            "the values of a tensor (if, while, .item()) or on the number of samples has to be written otherwise."
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _description(spec: ModelSpec) -> dict[str, str]:
    """What a reader needs beside the graph, and all that the model directory says."""
    return {
        "class_names": json.dumps(spec.class_names),
        "weights_sha256": spec.weights_sha256,
        "input_shape": json.dumps(spec.input_shape),
        "model": strict_json(asdict(spec)),
    }


def _result_name(spec: ModelSpec) -> str:
    return _PROBABILITIES if spec.mean else _OUTPUTS


def _as_onnx(program: torch.export.ExportedProgram, spec: ModelSpec) -> bytes:
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program, input_names=[_INPUT], output_names=[_result_name(spec)], dynamo=True, verbose=False,
                dynamic_shapes=({0: "batch"},),
            )  # fmt: skip
        assert made is not None
        made.model.metadata_props.update(_description(spec))
        return made.model_proto.SerializeToString()
    except Exception as error:
        raise ConfigError(
            f"the network cannot be exported as ONNX ({_first_line(error)}). --format torch may take it."
        ) from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def _as_torch(program: torch.export.ExportedProgram, spec: ModelSpec) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"disttrain.json": json.dumps(_description(spec))})
    return file.getvalue()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


_Run = Callable[[np.ndarray], np.ndarray]


def _open_onnx(path: Path) -> _Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {_INPUT: inputs})[0]


def _open_torch(path: Path) -> _Run:
    module = torch.export.load(path).module()

    def run(inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            outputs: np.ndarray = module(torch.from_numpy(inputs)).numpy()
            return outputs

    return run


def _largest_difference(run: _Run, inputs: np.ndarray, expected: np.ndarray) -> float:
    """Of all samples at once, and of single ones: another number in the batch. Raises IntegrityError."""
    batches = [slice(0, len(inputs)), *(slice(at, at + 1) for at in range(len(inputs)))]
    largest = 0.0
    for batch in batches:
        try:
            outputs = run(np.ascontiguousarray(inputs[batch]))
        except Exception as error:
            raise IntegrityError(
                f"the exported model does not take a batch of {len(inputs[batch])} ({_first_line(error)}), which the "
                "original does. Nothing was written."
            ) from error
        if outputs.shape != expected[batch].shape:
            raise IntegrityError(
                f"the exported model gives outputs of shape {list(outputs.shape)}, the original of "
                f"{list(expected[batch].shape)}. Nothing was written."
            )
        largest = max(largest, float(np.abs(outputs - expected[batch]).max()))
    if not largest <= TOLERANCE:
        raise IntegrityError(
            f"the exported model does not answer as the original: an output differs by {largest:.2g}, and "
            f"{TOLERANCE:g} may be. Nothing was written."
        )
    return largest
