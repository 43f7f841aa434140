"""Images decoded by processes of their own while the network computes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from disttrain.data.decode import UnreadableImage, decode_image
from disttrain.data.stream import end_with_parent, started
from disttrain.errors import DataError
from disttrain.inference.input_list import InputList, ItemReader
from disttrain.models.model_dir import ModelSpec

_IMAGES_PER_PROCESS = 2000  # below this, starting a process costs more than it saves
_AHEAD = 2  # batches that each process decodes ahead
_TURN_BYTES = 16 << 20  # a container may have no more shared memory than 64 MiB


@dataclass(frozen=True)
class DecodedBatch:
    """What became of consecutive images."""

    paths: list[str]
    images: torch.Tensor
    """uint8 [n, channels, height, width]: those that could be read, in order."""
    errors: dict[int, str]
    """Why an image could not be read, by its number in the batch."""


class _Batches(torch.utils.data.Dataset[DecodedBatch]):
    """Ranges of the list; to ask for one decodes it."""

    def __init__(self, inputs: InputList, ranges: Sequence[range], spec: ModelSpec) -> None:
        self.inputs, self.ranges, self.spec = inputs, ranges, spec
        self.reader = ItemReader()

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, index: int) -> DecodedBatch:
        items = self.inputs.items(self.ranges[index].start, self.ranges[index].stop)
        channels, height, width = self.spec.input_shape
        images = torch.empty((len(items), channels, height, width), dtype=torch.uint8)
        pixels, errors, read = images.numpy(), {}, 0
        for number, item in enumerate(items):
            try:
                data = self.reader.read(item)
                pixels[read] = decode_image(data, (channels, height, width), self.spec.resize)
                read += 1
            except UnreadableImage as error:
                errors[number] = str(error)
        return DecodedBatch([item.path for item in items], images[:read], errors)


def decoded_batches(
    inputs: InputList, ranges: Sequence[range], spec: ModelSpec, most_processes: int
) -> Iterator[DecodedBatch]:
    """The images of the ranges, a batch for each, in order.

    Args:
        most_processes: that decode; fewer do for few images, and for very few this one does.
    Raises DataError where a decoding process is killed, OSError where the list cannot be read.
    """
    processes = min(most_processes, sum(map(len, ranges)) // _IMAGES_PER_PROCESS)
    loader: DataLoader[DecodedBatch] = DataLoader(
        _Batches(inputs, ranges, spec),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=processes,
        multiprocessing_context="fork" if processes else None,
        prefetch_factor=_AHEAD if processes else None,
        worker_init_fn=partial(end_with_parent, os.getpid()),
    )
    batches, failure = started(loader), ""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:  # torch's word for a process that has ended
            failure = " ".join(str(error).split())
            break
        yield batch
    del batches  # the other processes end with it; an exception would keep it
    raise DataError(f"decoding the images failed: {failure}. Run it again.")


def in_turns(batches: Iterator[DecodedBatch]) -> Iterator[DecodedBatch]:
    """The same batches; several small ones are decoded before the first of them is handed on.

    For a network that computes on the cores that decode: its threads wait for each other, so that a core taken from one
    of them is lost to all.
    """
    while held := _up_to(_TURN_BYTES, batches):
        yield from held


def _up_to(most_bytes: int, batches: Iterator[DecodedBatch]) -> list[DecodedBatch]:
    held: list[DecodedBatch] = []
    while sum(one.images.nbytes for one in held) < most_bytes and (batch := next(batches, None)) is not None:
        held.append(batch)
    return held


def _as_it_is(batch: Any) -> Any:
    return batch


def answers_of(batch: DecodedBatch, probabilities: np.ndarray) -> list[np.ndarray | str]:
    """Probabilities float32 [n, classes] of the images that could be read, and the reasons of the others, in order."""
    rows = iter(probabilities)
    return [batch.errors[number] if number in batch.errors else next(rows) for number in range(len(batch.paths))]
