"""A model that `disttrain export` has written as ONNX, run by onnxruntime on the CPU."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch

from disttrain.errors import ConfigError, DataError
from disttrain.files import file_sha256
from disttrain.models.model_dir import spec_of

ONNX = "model.onnx"
"""Where `disttrain export` writes it in a model directory, and `disttrain serve` looks for it."""


def has_onnxruntime() -> bool:
    """Whether it is installed; it is not imported for that."""
    return importlib.util.find_spec("onnxruntime") is not None


class OnnxPredictor:
    """Turns uint8 images into class probabilities, as `Predictor` does."""

    def __init__(self, path: Path, device_name: str) -> None:
        """Raises ConfigError: a device that it does not run on, onnxruntime is missing, inputs that are no images;
        DataError: no such file, or none that `disttrain export` wrote."""
        if device_name == "cuda":
            raise ConfigError(f"--device cuda: {path} runs on the CPU. Give the model directory for a GPU.")
        if not has_onnxruntime():
            raise ConfigError(
                f"{path} needs onnxruntime: pip install 'disttrain[export]', or give the model directory."
            )
        import onnxruntime

        if not path.is_file():
            raise DataError(f"{path} does not exist: write it by disttrain export, or give a model directory.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            described = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # of onnxruntime's own types
            raise DataError(f"{path} is no ONNX model: {' '.join(str(error).split())[:300]}") from None
        try:
            self.spec = spec_of(json.loads(described["model"]))
        except (KeyError, ValueError, TypeError):
            raise DataError(f"{path} was not written by disttrain export, and does not name its classes.") from None
        if not self.spec.mean:
            raise ConfigError(f"this model takes inputs of shape {list(self.spec.input_shape)}, not uint8 images.")
        self.sha256 = file_sha256(path)
        self._input = self._session.get_inputs()[0].name

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, channels, height, width] -> float32 [n, classes], rows summing to 1."""
        outputs: np.ndarray = self._session.run(None, {self._input: np.ascontiguousarray(images)})[0]
        return outputs
