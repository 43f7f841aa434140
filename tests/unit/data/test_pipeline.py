"""Batches from memory and streamed: the same samples, in the same micro-batches, with the same augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from disttrain.data.base import Dataset, ImageArrays
from disttrain.data.batch_plan import BatchPlan
from disttrain.data.pipeline import EvalPipeline, InMemorySamples, MicroBatch, Samples, TrainPipeline, build_samples
from disttrain.data.statistics import channel_statistics
from disttrain.data.stream import StreamedSamples
from disttrain.data.transform import Augmentation, ImageTransform
from disttrain.errors import DataError

from ..helpers import data_config, image_arrays

CPU = torch.device("cpu")
COUNT = 53


def dataset() -> Dataset:
    images = np.random.RandomState(0).randint(0, 256, (COUNT + 10, 3, 6, 6)).astype(np.uint8)
    labels = np.arange(COUNT + 10) % 4
    ids = np.random.RandomState(1).permutation(COUNT + 10)
    splits = {"train": np.sort(ids[:COUNT]), "val": np.sort(ids[COUNT:]), "test": ids[:0]}
    return Dataset(ImageArrays(images, labels, tuple("abcd")), splits, tuple("abcd"), "")


def samples(placement: str, **fields: Any) -> Samples:
    data = data_config(
        placement=placement, shift_px=1, quarter_turns=True, vertical_flip=True, brightness=0.2, contrast=0.1, **fields
    )
    made = dataset()
    transform = ImageTransform(*channel_statistics(made), Augmentation.build(data, 6, 6), 3, CPU)
    return build_samples(made, data, transform, CPU, 3)


def pipeline(
    source: Samples, rank: int = 0, world_size: int = 1, batch: int = 16, micro: int | None = None
) -> TrainPipeline:
    return TrainPipeline(source, dataset().splits["train"], BatchPlan.build(COUNT, world_size, batch, micro), rank, 3)


def steps(train: TrainPipeline, epoch: int = 0, first_step: int = 0) -> Iterator[tuple[int, list[MicroBatch]]]:
    for batch in train.epoch(epoch, first_step):
        micro_batches = list(batch.micro_batches)
        assert [one.is_first for one in micro_batches] == [True] + [False] * (len(micro_batches) - 1)
        assert [one.is_last for one in micro_batches] == [False] * (len(micro_batches) - 1) + [True]
        yield batch.count, micro_batches


def same(one: MicroBatch, other: MicroBatch) -> bool:
    tensors = ((one.inputs, other.inputs), (one.targets, other.targets), (one.ids, other.ids))
    return one.weight == other.weight and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in tensors)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("epoch", [0, 1])
def test_streamed_batches_are_bit_identical_to_those_from_memory(workers: int, epoch: int) -> None:
    memory, streamed = samples("device"), samples("stream", loader_workers=workers)
    assert isinstance(memory, InMemorySamples)
    assert isinstance(streamed, StreamedSamples)
    for rank in range(2):
        made = [list(steps(pipeline(source, rank, 2, 16, 3), epoch)) for source in (memory, streamed)]
        assert len(made[0]) == len(made[1]) == 4
        for (count, ours), (other_count, theirs) in zip(*made, strict=True):
            assert count == other_count
            assert all(same(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("world_size", "micro"), [(1, None), (1, 5), (3, None), (3, 2), (7, 1)])
def test_every_training_sample_is_used_once_per_epoch_over_all_ranks(world_size: int, micro: int | None) -> None:
    source = samples("device")
    for epoch in range(2):
        seen = []
        for rank in range(world_size):
            for _, micro_batches in steps(pipeline(source, rank, world_size, 16, micro), epoch):
                seen += [int(one) for micro_batch in micro_batches if micro_batch.weight for one in micro_batch.ids]
        assert sorted(seen) == dataset().splits["train"].tolist()


def test_the_samples_of_a_step_do_not_depend_on_ranks_or_micro_batches() -> None:
    source = samples("device")

    def ids_of_steps(world_size: int, micro: int | None) -> list[list[int]]:
        ranks = [list(steps(pipeline(source, rank, world_size, 16, micro))) for rank in range(world_size)]
        return [
            [int(one) for _, parts in step for part in parts if part.weight for one in part.ids]
            for step in zip(*ranks, strict=True)
        ]

    reference = ids_of_steps(1, None)
    assert all(ids_of_steps(*layout) == reference for layout in ((1, 4), (2, None), (3, 2), (16, 1)))


def test_inputs_and_targets_belong_to_their_ids() -> None:
    made = image_arrays(dataset())
    source = InMemorySamples(torch.from_numpy(made.images), torch.from_numpy(made.labels), None, CPU)
    for _, micro_batches in steps(pipeline(source, micro=4)):
        for one in micro_batches:
            assert np.array_equal(one.inputs.numpy(), made.images[one.ids.numpy()])
            assert np.array_equal(one.targets.numpy(), made.labels[one.ids.numpy()])


@pytest.mark.parametrize("placement", ["device", "stream"])
@pytest.mark.parametrize("first_step", [1, 3])
def test_an_epoch_resumed_in_the_middle_gives_the_batches_that_were_left(placement: str, first_step: int) -> None:
    source = samples(placement, loader_workers=1)
    whole = list(steps(pipeline(source, 1, 2, 16, 3), epoch=4))
    rest = list(steps(pipeline(source, 1, 2, 16, 3), epoch=4, first_step=first_step))
    assert len(rest) == 4 - first_step
    for (count, ours), (other_count, theirs) in zip(whole[first_step:], rest, strict=True):
        assert count == other_count
        assert all(same(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_a_rank_without_samples_in_a_step_gets_a_stand_in_of_weight_0(placement: str) -> None:
    source = samples(placement, loader_workers=0)
    last = [list(steps(pipeline(source, rank, 7, 16)))[-1] for rank in range(7)]  # 53 = 3 x 16 + 5
    assert {count for count, _ in last} == {5}
    real = [parts for _, parts in last if parts[0].weight]
    empty = [parts for _, parts in last if not parts[0].weight]
    assert (len(real), len(empty)) == (5, 2)
    assert all(len(parts) == 1 and len(parts[0].ids) == 1 for parts in empty)
    assert len({int(parts[0].ids[0]) for parts in real}) == 5


@pytest.mark.parametrize("world_size", [1, 3, 12])
@pytest.mark.parametrize("placement", ["device", "stream"])
def test_every_evaluation_sample_is_on_one_rank_and_not_augmented(world_size: int, placement: str) -> None:
    source, ids, made = samples(placement, loader_workers=0), dataset().splits["val"], dataset()
    batches = [one for rank in range(world_size) for one in EvalPipeline(source, ids, 2, rank, world_size)]
    assert [int(one) for batch in batches for one in batch.ids] == ids.tolist()
    mean, std = channel_statistics(made)
    plain = ImageTransform(mean, std, Augmentation(), 0, CPU)
    for batch in batches:
        images = torch.from_numpy(image_arrays(made).images[batch.ids.numpy()])
        assert torch.equal(batch.inputs, plain(images, batch.ids, None))


def test_tensors_beyond_the_budget_are_streamed() -> None:
    tensors = TensorDataset(torch.zeros(300, 1024), torch.zeros(300, dtype=torch.int64))  # 1.2 MiB
    made = Dataset(tensors, dataset().splits, (), "")
    cases: dict[str, dict[str, Any]] = {
        "fits": {"device_budget_mib": 2},
        "too large": {"device_budget_mib": 1},
        "wanted": {"device_budget_mib": 1, "placement": "device"},
        "not wanted": {"placement": "stream"},
    }
    kinds = {kind: type(build_samples(made, data_config(**fields), None, CPU, 0)) for kind, fields in cases.items()}
    memory = InMemorySamples
    assert kinds == {"fits": memory, "too large": StreamedSamples, "wanted": memory, "not wanted": StreamedSamples}


def test_samples_in_memory_leave_the_file_they_are_mapped_from_untouched(tmp_path: Any) -> None:
    images = np.lib.format.open_memmap(tmp_path / "i.npy", "w+", np.uint8, (4, 1, 2, 2))
    mapped = np.load(tmp_path / "i.npy", mmap_mode="r")
    made = Dataset(ImageArrays(mapped, np.zeros(4, np.int64), ("a",)), {}, ("a",), "")
    source = build_samples(made, data_config(), None, CPU, 0)
    assert isinstance(source, InMemorySamples)
    source.inputs += 1
    assert int(source.inputs.sum()) == 16
    assert not images.any()


class RandomItems:
    """A user's dataset that draws from every global generator."""

    def __len__(self) -> int:
        return COUNT + 10

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        import random

        return torch.tensor([random.random(), np.random.rand(), torch.rand(1).item(), float(index)]), index % 4


def random_batches(
    workers: int, rank: int = 0, world_size: int = 1, epoch: int | None = 0
) -> dict[int, tuple[float, ...]]:
    made = Dataset(RandomItems(), dataset().splits, (), "")
    source = StreamedSamples(made, data_config(loader_workers=workers), None, CPU, 3)
    if epoch is None:
        batches = list(EvalPipeline(source, made.splits["train"], 5, rank, world_size))
    else:
        batches = [one for _, parts in steps(pipeline(source, rank, world_size, 16, 3), epoch) for one in parts]
    return {int(key): tuple(row.tolist()) for one in batches for key, row in zip(one.ids, one.inputs, strict=True)}


def test_a_users_own_random_augmentation_does_not_depend_on_loader_processes_or_ranks() -> None:
    alone = random_batches(0)
    assert len(alone) == COUNT
    assert random_batches(2) == alone
    assert {**random_batches(0, 0, 2), **random_batches(1, 1, 2)} == alone
    first = [row[:3] for row in alone.values()]
    assert len({value for row in first for value in row}) == 3 * COUNT


def test_a_users_own_random_augmentation_changes_with_the_epoch_and_not_in_evaluation() -> None:
    assert random_batches(0, epoch=1) != random_batches(0)
    assert random_batches(0, epoch=1) == random_batches(0, epoch=1)
    assert random_batches(0, epoch=None) == random_batches(2, epoch=None)


def test_loading_in_the_training_process_leaves_its_generators_alone() -> None:
    import random

    def state() -> tuple[Any, Any]:
        return random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()

    before = state()
    random_batches(0)
    assert state() == before


class Broken(RandomItems):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getitem__(self, index: int) -> Any:
        if index != 7:
            return torch.zeros(2), 0
        if self.kind == "raises":
            raise RuntimeError("disk gone")
        if self.kind == "other shape":
            return torch.zeros(3), 0
        # A tensor of two values unpacks like a pair, and then does not fit the others.
        return torch.zeros(2) if self.kind == "no pair" else (object(), 0)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("raises", "sample 7 of the dataset raised RuntimeError: disk gone"),
        ("other shape", "samples of the dataset do not fit into one batch"),
        ("no pair", "sample 7 of the dataset is "),
        ("object", "the input of sample 7 is of type object: expected numbers"),
    ],
)
def test_a_sample_that_cannot_be_loaded_is_a_data_error(kind: str, expected: str, workers: int) -> None:
    made = Dataset(Broken(kind), {}, (), "")
    source = StreamedSamples(made, data_config(loader_workers=workers), None, CPU, 0)
    with pytest.raises(DataError, match=expected):
        list(source.batches([np.arange(4), np.arange(4, 9)], 0))
