"""Samples too large for the device's memory: loader processes fetch them, in the order they are told."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from disttrain.config.sections import DataConfig
from disttrain.data.base import Dataset, ImageArrays, MapDataset
from disttrain.data.transform import ImageTransform
from disttrain.errors import DataError
from disttrain.processes import die_with_parent
from disttrain.seed import mix

_Key = tuple[int, int]
"""(draw, sample id): `draw` is 0 without augmentation, else a hash that depends on seed and epoch."""


class _SeededItems(torch.utils.data.Dataset[Any]):
    """The user's dataset, with every generator it may draw from seeded per sample: its own random augmentation then
    depends on neither rank nor loader process."""

    def __init__(self, samples: ImageArrays | MapDataset) -> None:
        self.samples = samples

    def __getitem__(self, key: _Key) -> Any:
        """The item, or the DataError that says why there is none: exceptions would cross processes as tracebacks."""
        draw, index = key
        if isinstance(self.samples, ImageArrays):
            return self.samples.images[index], self.samples.labels[index]
        state = (random.getstate(), np.random.get_state(), torch.get_rng_state())
        seed = mix(draw, index)
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        torch.default_generator.manual_seed(seed >> 1)
        try:
            inputs, target = self.samples[index]
            return inputs, target
        except DataError as error:
            return error
        except Exception as error:
            return DataError(f"sample {index} of the dataset raised {type(error).__name__}: {error}")
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])
            torch.set_rng_state(state[2])


def load_seeded(samples: ImageArrays | MapDataset, index: int) -> Any:
    """One item as a loader process would load it without augmentation: the same each time, wherever the dataset draws
    from the global generators. Returns the DataError that says why there is none."""
    return _SeededItems(samples)[(0, index)]


def _collate(items: list[Any]) -> Any:
    failed = next((item for item in items if isinstance(item, DataError)), None)
    if failed is not None:
        return failed
    try:
        return default_collate(items)
    except Exception as error:  # what torch raises depends on how the samples differ
        return DataError(f"samples of the dataset do not fit into one batch: {error}")


def end_with_parent(rank: int, worker: int) -> None:
    """For a loader process: it ends with its rank at once; torch's own look at the parent comes every 5 s."""
    die_with_parent(rank)


def started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the loader processes. They must not collect what this rank has left to its collector, such as the process
    group of a training before: its threads are not there to be ended in them."""
    gc.freeze()
    try:
        return iter(loader)
    finally:
        gc.unfreeze()


class _Batches(torch.utils.data.Sampler[list[_Key]]):
    def __init__(self, ids: Sequence[np.ndarray], draw: int) -> None:
        self.ids, self.draw = ids, draw

    def __iter__(self) -> Iterator[list[_Key]]:
        for part in self.ids:
            yield [(self.draw, int(index)) for index in part]

    def __len__(self) -> int:
        return len(self.ids)


class StreamedSamples:
    """Batches through torch's DataLoader, from pinned memory where the device is a GPU."""

    def __init__(
        self, dataset: Dataset, data: DataConfig, transform: ImageTransform | None, device: torch.device, seed: int
    ) -> None:
        self.items = _SeededItems(dataset.samples)
        self.data, self.transform, self.device, self.seed = data, transform, device, seed

    def batches(self, ids: list[np.ndarray], epoch: int | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See `pipeline.Samples.batches`. Raises DataError for a sample that cannot be loaded."""
        workers = min(self.data.loader_workers, len(ids))
        loader: DataLoader[Any] = DataLoader(
            self.items,
            batch_sampler=_Batches(ids, 0 if epoch is None else mix(self.seed, epoch) | 1),
            collate_fn=_collate,
            num_workers=workers,
            worker_init_fn=partial(end_with_parent, os.getpid()),
            prefetch_factor=self.data.prefetch_batches if workers else None,
            pin_memory=self.device.type == "cuda",
        )
        for part, batch in zip(ids, started(loader), strict=True):
            if isinstance(batch, DataError):
                raise batch
            inputs, targets = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            if self.transform is not None:
                inputs = self.transform(inputs, torch.from_numpy(part).to(self.device), epoch)
            yield inputs, targets
