"""Batches on the device, in the order that `order.py` fixes: from memory, or streamed by loader processes.

Both ways give the same samples, in the same micro-batches, with the same augmentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import TensorDataset

from disttrain.config.sections import DataConfig
from disttrain.data.base import Dataset, ImageArrays
from disttrain.data.batch_plan import BatchPlan, Share, rank_slice
from disttrain.data.order import epoch_order
from disttrain.data.sample_contract import SampleContract
from disttrain.data.shards import eval_batches
from disttrain.data.stream import StreamedSamples
from disttrain.data.transform import ImageTransform
from disttrain.tensor_tree import rows


@dataclass(frozen=True)
class MicroBatch:
    """What one rank puts through the network at once."""

    inputs: Any
    """A tensor [n, ...], or a dict, tuple or list of them; so are `targets`."""
    targets: Any
    ids: torch.Tensor
    """int64 [n]: sample ids, on the CPU."""
    weight: float = 1.0
    """0 for the stand-in that a rank without samples in this step puts through, so that it joins the reduction."""
    share: int = 0
    """The number of the `Share` to which it belongs."""
    is_first: bool = True
    """Whether it is the first of its share."""
    is_last: bool = True
    """Whether it is the last of its share."""


@dataclass(frozen=True)
class GlobalBatch:
    """One rank's part of an optimizer step."""

    count: int
    """Samples over all ranks."""
    micro_batches: Iterator[MicroBatch]


Batch = tuple[Any, Any]
"""(inputs, targets) on the device: each a tensor, or a dict, tuple or list of them."""


class Samples(Protocol):
    """Where batches come from: `InMemorySamples` or `StreamedSamples`."""

    def batches(self, ids: list[np.ndarray], epoch: int | None) -> Iterator[Batch]:
        """(inputs, targets) on the device for each array of ids in turn; `epoch` None: without augmentation."""
        ...

    def few(self, ids: np.ndarray) -> Batch:
        """(inputs, targets) of some samples on the device, without augmentation, loaded by this process itself."""
        ...

    def limit_targets(self, class_count: int) -> None:
        """From now on a target that is no class number raises DataError, with its sample."""
        ...


class InMemorySamples:
    """All samples on the device: uint8 images as they are, other tensors likewise."""

    def __init__(
        self, inputs: torch.Tensor, targets: torch.Tensor, transform: ImageTransform | None, device: torch.device
    ) -> None:
        self.inputs, self.targets = inputs.to(device), targets.to(device)
        self.transform, self.device = transform, device

    def limit_targets(self, class_count: int) -> None:
        """See `Samples.limit_targets`."""
        SampleContract(class_count=class_count).check_range(self.targets, None)

    def few(self, ids: np.ndarray) -> Batch:
        """See `Samples.few`."""
        return next(self.batches([ids], None))

    def batches(self, ids: list[np.ndarray], epoch: int | None) -> Iterator[Batch]:
        """See `Samples.batches`."""
        if not ids:
            return
        # Ids and draws of the whole pass go to the device at once and are cut there: a step waits for no transfer.
        on_device = torch.from_numpy(np.concatenate(ids)).to(self.device)
        sizes = [len(one) for one in ids]
        parts = torch.split(on_device, sizes)
        if self.transform is None:
            for part in parts:
                yield self.inputs[part], self.targets[part]
            return
        for part, draws in zip(parts, self.transform.draw(on_device, epoch).split(sizes), strict=True):
            yield self.transform.apply(self.inputs[part], draws), self.targets[part]


def build_samples(
    dataset: Dataset,
    data: DataConfig,
    transform: ImageTransform | None,
    device: torch.device,
    seed: int,
    float_dtype: torch.dtype = torch.float32,
) -> Samples:
    """Samples in memory where they fit, as `data.placement` says; streamed otherwise. Floats become `float_dtype`."""
    contract = SampleContract(dataset.class_names, float_dtype)
    if data.placement != "stream":
        tensors = _as_tensors(dataset)
        if tensors is not None:
            size_mib = sum(tensor.element_size() * tensor.numel() for tensor in tensors) / 2**20
            if data.placement == "device" or size_mib <= data.device_budget_mib:
                inputs, targets = contract.batch_inputs(tensors[0]), contract.batch_targets(tensors[1])
                return InMemorySamples(inputs, targets, transform, device)
    return StreamedSamples(dataset, data, transform, device, seed, contract)


def _as_tensors(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor] | None:
    samples: Any = dataset.samples
    if isinstance(samples, ImageArrays):
        # Copy-on-write, since torch wants writable memory: on the CPU all ranks of a node read the same pages.
        images = samples.images
        if isinstance(images, np.memmap) and images.filename is not None:
            images = np.memmap(images.filename, images.dtype, "c", images.offset, images.shape)
        return torch.from_numpy(np.asarray(images)), torch.from_numpy(samples.labels)
    # A class of the user's own may give other items than the tensors' rows.
    gives_rows = isinstance(samples, TensorDataset) and type(samples).__getitem__ is TensorDataset.__getitem__
    if gives_rows and len(samples.tensors) == 2 and all(one.layout == torch.strided for one in samples.tensors):
        return samples.tensors[0], samples.tensors[1]
    return None


class TrainPipeline:
    """The training split as global batches. Its whole state is (epoch, step in epoch), which the caller holds."""

    def __init__(
        self,
        samples: Samples,
        ids: np.ndarray,
        plan: BatchPlan,
        rank: int,
        seed: int,
        allow_empty_micro_batches: bool = False,
    ) -> None:
        """`empty_stand_ins`: where this rank has no sample for a micro-batch, give the network an empty batch rather
        than a sample with weight 0, which SyncBatchNorm would count. Not every network takes one."""
        self.samples, self.ids, self.plan, self.rank, self.seed = samples, ids, plan, rank, seed
        self.allow_empty_micro_batches = allow_empty_micro_batches

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[GlobalBatch]:
        """This rank's part of every step of an epoch, from `first_step` on."""
        order = self.ids[epoch_order(self.seed, epoch, len(self.ids))]
        steps = range(first_step, self.plan.steps_per_epoch)
        shares = {step: self.plan.shares(step, self.rank) for step in steps}
        # A rank without a sample loads one of the step's: were it not finite, the step would be left out in any case.
        ids = [
            order[part.start : part.stop] if part else order[self.plan.step_range(step).start :][:1]
            for step in steps
            for share in shares[step]
            for part in share.micro_ranges
        ]
        loaded = zip(ids, self.samples.batches(ids, epoch), strict=True)
        for step in steps:
            yield GlobalBatch(len(self.plan.step_range(step)), self._micro_batches(shares[step], loaded))

    def _micro_batches(self, shares: list[Share], loaded: Iterator[tuple[np.ndarray, Batch]]) -> Iterator[MicroBatch]:
        for number, micro_ranges in shares:
            for at, part in enumerate(micro_ranges, start=1):
                ids, (inputs, targets) = next(loaded)
                if not part and self.allow_empty_micro_batches:
                    inputs, targets, ids = rows(inputs, slice(0)), rows(targets, slice(0)), ids[:0]
                weight = 1.0 if part else 0.0
                is_last = at == len(micro_ranges)
                yield MicroBatch(inputs, targets, torch.from_numpy(ids), weight, number, at == 1, is_last)

    def ids_of(self, epoch: int, step_in_epoch: int) -> np.ndarray:
        """int64 [count]: the sample ids of a step's global batch, over all ranks."""
        positions = self.plan.step_range(step_in_epoch)
        return self.ids[epoch_order(self.seed, epoch, len(self.ids))][positions.start : positions.stop]


class EvalPipeline:
    """A split in order, each sample on exactly one rank, without augmentation."""

    def __init__(
        self, samples: Samples, ids: np.ndarray, batch_size: int, rank: int, world_size: int, shard_count: int = 0
    ) -> None:
        """With `shard_count` the batches are the same on any number of ranks and are dealt out whole."""
        self.samples, self.ids = samples, ids
        if shard_count:
            cuts = eval_batches(len(ids), batch_size, shard_count)
            largest_share = -(-len(cuts) // world_size)
            mine = rank_slice(len(cuts), rank, world_size)
            self._parts, self.num_batches = cuts[mine.start : mine.stop], largest_share
            return
        share = rank_slice(len(ids), rank, world_size)
        largest_share = -(-len(ids) // world_size)
        self._parts = [share[at : at + batch_size] for at in range(0, len(share), batch_size)]
        self.num_batches = -(-largest_share // batch_size)
        """How many batches the rank with the most samples has."""

    def __iter__(self) -> Iterator[MicroBatch]:
        parts = [self.ids[part.start : part.stop] for part in self._parts]
        for part, (inputs, targets) in zip(parts, self.samples.batches(parts, None), strict=True):
            yield MicroBatch(inputs, targets, torch.from_numpy(part))
