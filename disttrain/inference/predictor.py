"""A trained model that turns images into class probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from disttrain.config.sections import DataConfig
from disttrain.data.transform import Augmentation, ImageTransform, Symmetry
from disttrain.errors import ConfigError
from disttrain.models.model_dir import ModelSpec
from disttrain.models.tta import averaged_outputs


def _symmetries_of_training(spec: ModelSpec) -> tuple[Symmetry, ...]:
    recorded = {key: value for key, value in spec.data.items() if key in DataConfig.model_fields}
    _, height, width = spec.input_shape
    return Augmentation.build(DataConfig.model_validate(recorded), height, width).symmetries


NOT_FINITE = "the network gives no finite probabilities for it"
"""In the place of an answer that is none."""


def label_of(probabilities: np.ndarray, class_names: Sequence[str]) -> tuple[str, float, dict[str, float]]:
    """float32 [classes], finite -> the likeliest class, its probability, and those of all, to six decimals."""
    rounded = [round(float(value), 6) for value in probabilities]
    best = int(probabilities.argmax())
    return class_names[best], rounded[best], dict(zip(class_names, rounded, strict=True))


class Predictor:
    """A loaded model that turns uint8 images into class probabilities."""

    def __init__(self, model: nn.Module, spec: ModelSpec, device: torch.device) -> None:
        """Raises ConfigError for a model whose inputs are not images."""
        if not spec.mean:
            raise ConfigError(f"this model takes inputs of shape {list(spec.input_shape)}, not uint8 images.")
        self.model, self.spec, self.device = model.to(device).eval(), spec, device
        self.transform = ImageTransform(spec.mean, spec.std, Augmentation(), 0, device)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, channels, height, width] -> float32 [n, classes], rows summing to 1."""
        return self.scores(torch.from_numpy(images)).softmax(1).numpy()

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [n, channels, height, width] -> float32 [n, classes] on the CPU, as for a softmax."""
        return self._averaged(images, self.spec.symmetries)

    def steady_probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """As `probabilities`, averaged over all symmetries of the training: slower, and surer."""
        symmetries = _symmetries_of_training(self.spec) if len(self.spec.symmetries) == 1 else self.spec.symmetries
        return self._averaged(images, symmetries).softmax(1)

    @torch.inference_mode()
    def _averaged(self, images: torch.Tensor, symmetries: tuple[Symmetry, ...]) -> torch.Tensor:
        return averaged_outputs(self.model, self.normalised(images), symmetries).float().cpu()

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [n, channels, H, W] of any size -> float32 of the same shape, on the model's device."""
        return self.transform(images.to(self.device), torch.empty(0), None)
