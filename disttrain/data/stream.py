"""Samples too large for the device's memory: loader processes fetch them, in the order they are told."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing.util
import os
import random
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from disttrain.config.sections import DataConfig
from disttrain.data.base import Dataset, ImageArrays, MapDataset
from disttrain.data.sample_contract import SampleContract
from disttrain.data.transform import ImageTransform
from disttrain.errors import ConfigError, DataError
from disttrain.log import log
from disttrain.seed import mix
from disttrain.system.processes import die_with_parent
from disttrain.system.waits import SOON_S
from disttrain.tensor_tree import to_device

_SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
_LONGEST_PLACE = 107 - len("/pymp-12345678/listener-12345678")

_Key = tuple[int, int]
"""(draw, sample id): `draw` is 0 without augmentation, else a hash that depends on seed and epoch."""


class _SeededItems(torch.utils.data.Dataset[Any]):
    """The user's dataset, with every generator it may draw from seeded per sample: its own random augmentation then
    depends on neither rank nor loader process."""

    def __init__(self, samples: ImageArrays | MapDataset, contract: SampleContract) -> None:
        self.samples, self.contract = samples, contract

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
            return self.contract.read(self.samples[index], index)
        except DataError as error:
            return error
        except Exception as error:
            return DataError(f"sample {index} of the dataset raised {type(error).__name__}: {error}")
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])
            torch.set_rng_state(state[2])


def load_seeded(dataset: Dataset, index: int) -> Any:
    """One item as a loader process would load it without augmentation: the same each time, wherever the dataset draws
    from the global generators. Returns the DataError that says why there is none."""
    return _SeededItems(dataset.samples, SampleContract(dataset.class_names))[(0, index)]


def _collate(contract: SampleContract, items: list[Any]) -> Any:
    failed = next((item for item in items if isinstance(item, DataError)), None)
    if failed is not None:
        return failed
    try:
        inputs, targets = default_collate(items)
    except Exception as error:  # what torch raises depends on how the samples differ
        return DataError(
            f"samples of the dataset do not fit into one batch: {error}. Give all inputs one shape and type, and all "
            "targets one: resize, crop or pad in __getitem__."
        )
    return contract.batch_inputs(inputs), contract.batch_targets(targets)


def end_with_parent(rank: int, worker: int) -> None:
    """For a loader process: it ends with its rank at once; torch's own look at the parent comes every 5 s."""
    die_with_parent(rank)
    multiprocessing.util.get_temp_dir()  # now, in the place that `started` has chosen: the dataset's own files
    tempfile.tempdir = None  # belong into the user's TMPDIR


def started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the loader processes. They must not collect what this rank has left to its collector, such as the process
    group of a training before: its threads are not there to be ended in them."""
    usual = tempfile.tempdir
    if loader.num_workers:
        tempfile.tempdir = str(_place_for_sockets())
    gc.freeze()
    try:
        return iter(loader)
    finally:
        gc.unfreeze()
        tempfile.tempdir = usual


def _place_for_sockets() -> Path:
    """Where loader processes put the sockets through which they hand over their batches. The name of a socket has 107
    characters at most: with a long TMPDIR no batch would ever come. Raises ConfigError: there is no such folder."""
    places = [Path(tempfile.gettempdir()), *map(Path, _SHORT_PLACES)]
    place = next((one for one in places if len(os.fsencode(one)) <= _LONGEST_PLACE and os.access(one, os.W_OK)), None)
    if place is None:
        raise ConfigError(
            f"TMPDIR={places[0]} has {len(os.fsencode(places[0]))} characters, more than {_LONGEST_PLACE}, and none of "
            f"{', '.join(_SHORT_PLACES)} can be written: the sockets of loader processes need a short name. Set TMPDIR "
            "to a shorter folder, or data.loader_workers=0."
        )
    return place


def _within(batches: Iterator[Any], limit_s: float) -> Generator[Any, None, None]:
    """The batches of a loader that gives up after `SOON_S`: on and on, up to the limit. Raises DataError."""
    began, is_told = time.monotonic(), False
    try:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "timed out" not in str(error):  # a loader process was killed, or /dev/shm is full
                    raise DataError(f"the loader processes: {' '.join(str(error).split())}") from error
                waited_s = time.monotonic() - began
                if waited_s > limit_s:
                    raise DataError(
                        f"no batch has come from the loader processes for {waited_s:.0f} s (data.loader_timeout_s="
                        f"{limit_s:g}). Look for their messages above; a dataset that needs longer needs a higher "
                        "limit, and data.loader_workers=0 loads in this process."
                    ) from None
                if not is_told:
                    log.info("waiting for a batch from the loader processes (%.0f of %g s)", waited_s, limit_s)
                is_told = True
                continue
            yield batch
            began = time.monotonic()
    finally:
        del batches  # a traceback would keep it, and with it the loader processes


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
        self,
        dataset: Dataset,
        data: DataConfig,
        transform: ImageTransform | None,
        device: torch.device,
        seed: int,
        contract: SampleContract | None = None,
    ) -> None:
        self.contract = contract or SampleContract(dataset.class_names)
        self.items = _SeededItems(dataset.samples, self.contract)
        self.data, self.transform, self.device, self.seed = data, transform, device, seed

    def limit_targets(self, class_count: int) -> None:
        """See `pipeline.Samples.limit_targets`."""
        self.contract.class_count = class_count

    def few(self, ids: np.ndarray) -> tuple[Any, Any]:
        """See `pipeline.Samples.few`."""
        return self._on_device(_collate(self.contract, [self.items[0, int(index)] for index in ids]), ids, None)

    def batches(self, ids: list[np.ndarray], epoch: int | None) -> Iterator[tuple[Any, Any]]:
        """See `pipeline.Samples.batches`. Raises DataError for a sample that cannot be loaded."""
        workers = min(self.data.loader_workers, len(ids))
        loader: DataLoader[Any] = DataLoader(
            self.items,
            batch_sampler=_Batches(ids, 0 if epoch is None else mix(self.seed, epoch) | 1),
            collate_fn=partial(_collate, self.contract),
            num_workers=workers,
            worker_init_fn=partial(end_with_parent, os.getpid()),
            prefetch_factor=self.data.prefetch_batches if workers else None,
            pin_memory=self.device.type == "cuda",
            timeout=SOON_S if workers else 0,
        )
        with contextlib.closing(_within(started(loader), self.data.loader_timeout_s)) as batches:
            for part, batch in zip(ids, batches, strict=True):
                yield self._on_device(batch, part, epoch)

    def _on_device(self, batch: Any, ids: np.ndarray, epoch: int | None) -> tuple[Any, Any]:
        if isinstance(batch, DataError):
            raise batch
        inputs, targets = to_device(batch, self.device, non_blocking=True)
        if self.transform is not None:
            inputs = self.transform(inputs, torch.from_numpy(ids).to(self.device), epoch)
        return inputs, targets
