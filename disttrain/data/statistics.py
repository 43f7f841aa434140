"""Mean and standard deviation per channel, of the training split alone."""

from __future__ import annotations

import numpy as np
import torch

from disttrain.data.base import Dataset, ImageArrays
from disttrain.errors import DataError

_STREAMED = 4096  # training images looked at where they are not decoded beforehand
_BLOCK = 8192


def channel_statistics(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel in pixel values 0 to 255, of a dataset of uint8 images.

    Decoded images are counted exactly, in integers, so the result is the same in every process. Streamed ones are
    estimated from at most 4,096 evenly spaced training samples.
    """
    train = dataset.splits["train"]
    if isinstance(dataset.samples, ImageArrays):
        images = dataset.samples.images
        blocks = (images[train[at : at + _BLOCK]] for at in range(0, len(train), _BLOCK))
        channels = images.shape[1]
    else:
        chosen = train[np.linspace(0, len(train) - 1, min(_STREAMED, len(train))).astype(int)]
        blocks = (np.asarray(dataset.samples[int(index)][0])[None] for index in chosen)
        channels = len(dataset.samples[int(train[0])][0])
    counts = np.zeros((channels, 256), dtype=np.int64)
    for block in blocks:
        for channel in range(channels):
            counts[channel] += np.bincount(block[:, channel].reshape(-1), minlength=256)
    values = np.arange(256)
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    std = np.sqrt(np.maximum(variance, 0))
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def as_image(sample: object) -> np.ndarray | torch.Tensor | None:
    """The sample if it is a uint8 image [channels, height, width], else None. Raises DataError for another order."""
    if isinstance(sample, np.ndarray | torch.Tensor) and sample.ndim == 3 and str(sample.dtype).endswith("uint8"):
        check_channels_first(tuple(sample.shape))
        return sample
    return None


def check_channels_first(shape: tuple[int, ...]) -> None:
    """Raise DataError for the shape of an image that can only be [height, width, channels]."""
    first, rows, last = shape
    if last < first and last != rows and (first > 4 or first == rows):
        raise DataError(
            f"images of shape {list(shape)} are [height, width, channels], as PIL and OpenCV have them: an image is "
            "[channels, height, width] here, as torch has it. Give image.transpose(2, 0, 1) (numpy) or "
            "image.permute(2, 0, 1) (torch)."
        )
