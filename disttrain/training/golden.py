"""The golden requests of a trained model: inputs of its validation split, with the outputs of its final weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from disttrain.data.base import Dataset, ImageArrays
from disttrain.data.transform import Augmentation, ImageTransform
from disttrain.models.golden import COUNT, Golden
from disttrain.models.tta import averaged_outputs
from disttrain.training.prepare import Prepared, float_dtype_of


def record_golden(prepared: Prepared, model: nn.Module, device: torch.device) -> Golden | None:
    """Evenly spaced ones of the validation split, or of another where there is none, sorted by class.

    None for a model whose inputs are no uint8 images, or whose outputs are no scores of classes.
    """
    spec = prepared.spec
    if not spec.mean or not prepared.loss.scores_classes:
        return None
    images = _some_images(prepared.dataset)
    transform = ImageTransform(spec.mean, spec.std, Augmentation(), 0, device)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            inputs = transform(torch.from_numpy(images).to(device), torch.empty(0), None).to(float_dtype_of(model))
            outputs = averaged_outputs(model, inputs, spec.symmetries).float().softmax(1).cpu().numpy()
    finally:
        model.train(was_training)
    return Golden(images, outputs)


def _some_images(dataset: Dataset) -> np.ndarray:
    """uint8 [n, channels, height, width]"""
    ids = next(dataset.splits[name] for name in ("val", "test", "train") if len(dataset.splits[name]))
    if dataset.labels is not None:
        ids = ids[np.argsort(dataset.labels[ids], kind="stable")]
    chosen = ids[np.linspace(0, len(ids) - 1, min(COUNT, len(ids))).astype(int)]
    if isinstance(dataset.samples, ImageArrays):
        return np.ascontiguousarray(dataset.samples.images[chosen])
    return np.stack([np.asarray(dataset.samples[int(index)][0]) for index in chosen])
