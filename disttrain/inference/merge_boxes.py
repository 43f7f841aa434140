"""Many windows around one object -> one box, looked at again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from disttrain.data.scene import Scene
from disttrain.errors import ConfigError
from disttrain.inference.window_search import Hits, WindowSearch

_BATCH_SIZE = 64
_LARGEST_OVERLAP = 0.3
"""Intersection over union of two boxes that are two objects, such as planes side by side at their gates."""


@dataclass(frozen=True)
class Box:
    """An object in a scene, in its pixels."""

    x: int
    """Of the left border."""
    y: int
    """Of the upper border."""
    width: int
    height: int
    score: float
    """The model's probability of the class, averaged over the symmetries of its training, to four decimals."""


def merge_hits(hits: Hits, height: int, width: int) -> list[Box]:
    """Windows of one size -> boxes of that size by non-maximum suppression, from above to below, then left to right.

    Raises ConfigError without torchvision, which an image for classification alone may lack.
    """
    try:
        from torchvision.ops import nms
    except ImportError:
        raise ConfigError("boxes in scenes need torchvision: install the one that is made for this torch.") from None
    if not len(hits.top):
        return []
    order = np.lexsort((hits.left, hits.top))  # equal scores: by place, in whatever order the tiles came
    top, left, logit = (torch.from_numpy(one[order]) for one in (hits.top, hits.left, hits.logit))
    corners = torch.stack([left, top, left + width, top + height], 1).float()
    kept = nms(corners, logit, _LARGEST_OVERLAP).sort().values
    scores = logit[kept].double().sigmoid()
    return [
        Box(int(left[index]), int(top[index]), width, height, round(float(score), 4))
        for index, score in zip(kept, scores, strict=True)
    ]


def confirm_boxes(boxes: Sequence[Box], scene: Scene, search: WindowSearch) -> list[Box]:
    """The boxes whose windows reach the threshold on average over the symmetries under which the model was trained.

    A plane is one from every side; a crossing or a roof often from one side only. Raises UnreadableImage.
    """
    confirmed = []
    for at in range(0, len(boxes), _BATCH_SIZE):
        batch = boxes[at : at + _BATCH_SIZE]
        windows = np.stack([scene.read(box.y, box.x, box.height, box.width) for box in batch])
        scores = search.predictor.steady_probabilities(torch.from_numpy(windows))[:, search.class_index].double()
        for box, score in zip(batch, scores.tolist(), strict=True):
            if score >= search.threshold:
                confirmed.append(replace(box, score=round(score, 4)))
    return confirmed
