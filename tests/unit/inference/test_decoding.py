"""Batches that are decoded in turns with the network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from disttrain.inference.decoding import DecodedBatch, in_turns

MIB = 1 << 20


@pytest.mark.parametrize(("mib", "together"), [(6, 3), (16, 1), (100, 1)])
def test_small_batches_are_decoded_several_at_a_time_and_come_in_order(mib: int, together: int) -> None:
    decoded: list[int] = []

    def batches() -> Iterator[DecodedBatch]:
        for number in range(7):
            decoded.append(number)
            yield DecodedBatch([str(number)], torch.empty((mib, MIB), dtype=torch.uint8), {})

    ahead = []
    for number, batch in enumerate(in_turns(batches())):
        assert batch.paths == [str(number)]
        ahead.append(len(decoded) - number)
    assert ahead == [min(together - number % together, 7 - number) for number in range(7)]


def test_batches_without_a_readable_image_come_too() -> None:
    empty = [DecodedBatch([str(number)], torch.empty((0, 3, 2, 2), dtype=torch.uint8), {0: "?"}) for number in range(5)]
    assert list(in_turns(iter(empty))) == empty
