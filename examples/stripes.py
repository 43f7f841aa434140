"""A network and a dataset of one's own, named by own_network.yaml: which way do the stripes run?"""

import numpy as np
from torch import nn

from disttrain.data.base import ImageArrays


def network(input_shape: tuple[int, int, int], class_count: int, width: int = 16) -> nn.Module:
    """Any function or class; it is given the arguments that it has parameters for, and `model.kwargs`."""
    channels, _, _ = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, class_count),
    )


def stripes(count: int) -> ImageArrays:
    """`count` noisy images of 16x16 pixels; `data.test_fraction` of them are kept for the test."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, count)
    wave = np.where(np.arange(16) % 4 < 2, 60, -60) + 128
    flat = np.broadcast_to(wave[:, None], (count, 16, 16))
    images = np.where(labels[:, None, None] == 0, flat, flat.transpose(0, 2, 1)) + draw.normal(0, 30, (count, 16, 16))
    return ImageArrays(images.clip(0, 255).astype(np.uint8)[:, None], labels.astype(np.int64), ("lying", "standing"))
