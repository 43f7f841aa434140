"""Thousands of images decoded in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader

from disttrain.data.batch_plan import rank_slice
from disttrain.data.decode import UnreadableImage, decode_image
from disttrain.data.image_store import ImageStore
from disttrain.data.stream import end_with_parent, started
from disttrain.errors import DataError

_IMAGES_PER_PROCESS = 4000  # below this, starting another process costs more than it saves
_PART = 500  # images between two signs of progress

BadImages = list[tuple[str, str]]
"""(name, reason) of every image that could not be used."""


class _Parts(torch.utils.data.Dataset[BadImages]):
    """The images in parts: to ask for one decodes it into `out`, which loader processes share, and says which images
    could not be decoded."""

    def __init__(self, store: ImageStore, names: list[str], out: np.ndarray, resize: bool) -> None:
        self.store, self.names, self.out, self.resize = store, names, out, resize
        self.count = -(-len(names) // _PART)

    def __len__(self) -> int:
        return self.count

    def rows(self, part: int) -> range:
        return rank_slice(len(self.names), part, self.count)

    def __getitem__(self, part: int) -> BadImages:
        bad = []
        for row in self.rows(part):
            try:
                self.out[row] = decode_image(self.store.read(self.names[row]), self.out.shape[1:], self.resize)
            except UnreadableImage as error:
                bad.append((self.names[row], str(error)))
        return bad


def decode_all(
    store: ImageStore, names: list[str], out: np.ndarray, resize: bool, on_progress: Callable[[int], object]
) -> BadImages:
    """Decode `names` into `out` (a shared, memory-mapped uint8 [n, channels, height, width]), over all cores.

    Args:
        on_progress: called with the number of images done since the last call.
    Returns: the images that could not be decoded, in the order of `names`; their rows in `out` stay zero.
    Raises DataError where a decoding process is killed.
    """
    parts = _Parts(store, names, out, resize)
    processes = min(len(os.sched_getaffinity(0)), len(names) // _IMAGES_PER_PROCESS)
    workers = processes if processes > 1 else 0
    loader: DataLoader[BadImages] = DataLoader(
        parts,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,  # started anew they would fill a copy of `out`
        worker_init_fn=partial(end_with_parent, os.getpid()),
    )
    bad: BadImages = []
    failure = ""
    batches = started(loader)
    try:
        for part, found in enumerate(batches):
            bad += found
            on_progress(len(parts.rows(part)))
    except RuntimeError as error:  # torch's word for a process that has ended
        failure = str(error)
    del batches  # the other processes end with it; an exception would keep it
    if failure:
        raise DataError(f"decoding the images in {store.path} failed: {failure}. Run it again.")
    return bad


def _as_it_is(found: BadImages) -> BadImages:
    return found
