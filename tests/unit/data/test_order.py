"""The order of samples: a pure function that never changes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from disttrain.data.order import epoch_order

# A change of these is a change of every run that is resumed or repeated: there is no good reason for one.
GOLDEN_FIRST = [5, 2, 7, 9, 1, 4, 6, 0, 8, 3]
GOLDEN_SHA256 = "53925c1f9e2241e0e4b0514e6fff8043032ca3288becfefb68470ad44a047dfc"


def test_the_order_is_the_one_it_always_was() -> None:
    order = epoch_order(seed=7, epoch=3, sample_count=10_000)
    assert epoch_order(0, 0, 10).tolist() == GOLDEN_FIRST
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest() == GOLDEN_SHA256


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_an_epoch_holds_every_sample_once(count: int) -> None:
    order = epoch_order(1, 2, count)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(count))


def test_the_order_depends_on_nothing_but_its_arguments() -> None:
    first = epoch_order(1, 2, 500)
    np.random.seed(99)
    state = np.random.get_state(legacy=False)["state"]["key"].copy()
    assert np.array_equal(epoch_order(1, 2, 500), first)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], state)


def test_each_seed_and_epoch_has_its_own_order() -> None:
    orders = {tuple(epoch_order(seed, epoch, 50)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100
