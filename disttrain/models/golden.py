"""Golden requests: a few inputs of a trained model with the outputs that its training recorded, to check it by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from disttrain.errors import DataError, IntegrityError

GOLDEN = "golden.safetensors"
COUNT = 8
TOLERANCE = 0.002
"""Largest difference of a probability: the same weights on a GPU and on a CPU differ by less, other weights by more."""


@dataclass(frozen=True)
class Golden:
    """Inputs and outputs."""

    images: np.ndarray
    """uint8 [n, channels, height, width]"""
    probabilities: np.ndarray
    """float32 [n, classes]"""

    def save(self, folder: Path) -> None:
        """Write it into a model directory. Raises OSError."""
        arrays = {"images": self.images, "probabilities": self.probabilities}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / GOLDEN)

    def check(self, probabilities: np.ndarray) -> float:
        """The largest difference to what the model says now. Raises IntegrityError beyond the tolerance."""
        largest = float(np.abs(probabilities - self.probabilities).max())
        if not largest <= TOLERANCE:
            raise IntegrityError(
                f"the model does not answer its golden requests as its training did: a probability differs by "
                f"{largest:.4f}, and {TOLERANCE} may be. Copy the model directory again, or train again."
            )
        return largest


def load_golden(folder: Path, input_shape: tuple[int, ...], classes: int) -> Golden | None:
    """Those of a model directory; None where it has none. Raises DataError for damaged ones and other models'."""
    path = folder / GOLDEN
    if not path.exists():
        return None
    try:
        arrays = load_file(path)
        golden = Golden(arrays["images"], arrays["probabilities"])
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {error}. Copy the model directory again.") from None
    images, probabilities = golden.images, golden.probabilities
    fits = images.shape[1:] == input_shape and probabilities.shape == (len(images), classes) and len(images)
    if not fits or images.dtype != np.uint8 or probabilities.dtype != np.float32:
        raise DataError(
            f"{path} holds inputs of shape {list(images.shape)} and outputs of shape {list(probabilities.shape)}, "
            f"which are not of a model with inputs {list(input_shape)} and {classes} classes. Copy the model directory "
            "again."
        )
    return golden
