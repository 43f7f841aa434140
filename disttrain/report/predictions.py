"""A run's own model on its test split: what `result.json` does not hold, and the pictures of its mistakes."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from disttrain.config.sections import DataConfig
from disttrain.data.base import ImageArrays
from disttrain.data.open import open_dataset
from disttrain.errors import DisttrainError
from disttrain.inference.predictor import Predictor
from disttrain.models.model_dir import load_model_dir
from disttrain.report.scores import surest_mistakes

_BATCH = 1024
_LONGEST_SIDE = 128  # pixels: of larger images a smaller picture is shown


class Mistake(NamedTuple):
    """A sample that the model takes for something else."""

    sample: int
    truth: str
    answer: str
    probability: float
    picture: str
    """A PNG as a data URL."""


class Predictions(NamedTuple):
    """Of the test split."""

    probabilities: np.ndarray
    """float32 [n, classes]."""
    truth: np.ndarray
    """int64 [n]."""
    class_names: tuple[str, ...]
    mistakes: list[Mistake]


def predict_test_split(run_dir: Path, most_samples: int, most_mistakes: int, allow_code: bool) -> Predictions:
    """Raises DisttrainError, with the reason, where the model or its data cannot be had."""
    model, spec = load_model_dir(run_dir, allow_code)
    recorded = {key: value for key, value in spec.data.items() if key != "fingerprint"}
    if "name" not in recorded:
        raise DisttrainError("the model was trained on data of the user's own program")
    dataset = open_dataset(DataConfig.model_validate(recorded))
    _check_same(spec.data, dataset.fingerprint)
    samples, ids = dataset.samples, dataset.splits["test"]
    if not isinstance(samples, ImageArrays):
        raise DisttrainError("the data is no set of images of one size in memory")
    if len(ids) > most_samples:  # every n-th: the same ones each time
        ids = ids[np.linspace(0, len(ids) - 1, most_samples).astype(int)]
    predictor = Predictor(model, spec, torch.device("cpu"))
    parts = [predictor.probabilities(samples.images[ids[at : at + _BATCH]]) for at in range(0, len(ids), _BATCH)]
    probabilities, truth = np.concatenate(parts), samples.labels[ids].astype(np.int64)
    mistakes = [
        Mistake(
            int(ids[row]),
            spec.class_names[truth[row]],
            spec.class_names[int(probabilities[row].argmax())],
            float(probabilities[row].max()),
            _data_url(samples.images[ids[row]]),
        )
        for row in surest_mistakes(probabilities, truth, most_mistakes)
    ]
    return Predictions(probabilities, truth, spec.class_names, mistakes)


def _check_same(recorded: Mapping[str, Any], fingerprint: str) -> None:
    if recorded.get("fingerprint") not in (None, fingerprint):
        raise DisttrainError("the data is not what the model was trained on any more")


def _data_url(image: np.ndarray) -> str:
    """uint8 [channels, height, width] as a PNG within the page."""
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)[:, :, :3]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
