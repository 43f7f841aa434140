"""Sums that no order of additions changes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from disttrain.telemetry.exact_sum import LIMBS, decode, encode


def drawn(seed: int) -> list[float]:
    draw = np.random.RandomState(seed)
    return (draw.randn(200) * 10.0 ** draw.randint(-40, 30, 200)).astype(np.float32).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_the_sum_is_exact_in_any_order_and_any_grouping(seed: int) -> None:
    values = drawn(seed)
    whole = decode(encode(values))
    assert whole == math.fsum(values)
    for parts in (values[::2], values[1::2]), (values[150:], values[:150]):
        sums = [encode(part) for part in parts]
        assert decode(list(map(sum, zip(*sums, strict=True)))) == whole


@pytest.mark.parametrize("value", [0.0, 2.0**-149, -(2.0**-149), 3.4028234663852886e38, -3.4028234663852886e38, 1.5])
def test_every_float32_comes_back_as_it_was(value: float) -> None:
    assert decode(encode([value])) == value
    assert decode(encode([value] * 1000)) == 1000 * value
    assert all(abs(limb) < 2**32 for limb in encode([value]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300, -(2.0**160)])
def test_one_value_that_has_no_place_in_the_sum_shows_in_the_sum(bad: float) -> None:
    sums = [encode([1.0, bad]), encode([2.0])]
    assert math.isnan(decode(list(map(sum, zip(*sums, strict=True)))))


def test_no_value_sums_to_zero() -> None:
    assert encode([]) == [0] * LIMBS
    assert decode(encode([])) == 0.0
