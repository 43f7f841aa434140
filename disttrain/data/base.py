"""What a dataset is to the rest of the house: samples by id, and the ids of each split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class ImageArrays:
    """Decoded images, all of one size, as a dataset's reader returns them."""

    images: np.ndarray
    """uint8 [n, channels, height, width], possibly memory-mapped."""
    labels: np.ndarray
    """int64 [n], each below len(class_names)."""
    class_names: tuple[str, ...]
    scenes: np.ndarray | None = None
    """int64 [n]: the scene of each sample as an index into scene_names."""
    scene_names: tuple[str, ...] = ()
    is_test: np.ndarray | None = None
    """bool [n]: the published split, where there is one."""
    is_val: np.ndarray | None = None
    """bool [n]: which of the others are published for validation, where that is so."""

    def __len__(self) -> int:
        return len(self.labels)


class MapDataset(Protocol):
    """torch's map-style dataset: anything with a length whose items are (input, target) pairs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Dataset:
    """Samples with their split. Sample ids are positions in `samples`."""

    samples: ImageArrays | MapDataset
    splits: dict[str, np.ndarray]
    """int64 ids of `train`, `val` and `test`; the last two may be empty. No id is in two splits."""
    class_names: tuple[str, ...]
    fingerprint: str
    """sha256 that changes when the data or the split does; empty where the samples cannot be hashed."""
    labels: np.ndarray | None = None
    """int64 [n], where they are known without loading the samples."""
    resize: bool = False
    """Whether images of other sizes are resized to the input size."""
