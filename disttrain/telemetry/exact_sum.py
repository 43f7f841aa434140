"""Sums of floats without rounding, so that neither the order nor the number of ranks changes their bits.

Every finite float32 is a whole number of 2^-149. Such numbers are added as integers, in limbs of 32 bits: a list of
int64 that ranks can add up element by element. What a float64 has below 2^-149 is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

_UNIT = 149  # the smallest float32 above zero is 2^-149
_LIMB_BITS = 32
_TOO_LARGE = 2.0**160
LIMBS = 12
"""Length of an encoded sum: 11 limbs have room for 2^352 units, and so for 2^42 of the largest values. The last one
counts values that are not finite, or 2^160 and more, as only a float64 can be."""


def encode(values: Iterable[float]) -> list[int]:
    """int64 [LIMBS]: the sum of float32 or float64 values."""
    total = bad = 0
    for value in values:
        if abs(value) < _TOO_LARGE:
            total += int(math.ldexp(value, _UNIT))
        else:
            bad += 1
    sign, magnitude = (-1 if total < 0 else 1), abs(total)
    mask = (1 << _LIMB_BITS) - 1
    return [sign * (magnitude >> _LIMB_BITS * at & mask) for at in range(LIMBS - 1)] + [bad]


def decode(limbs: Sequence[int]) -> float:
    """The sum that was encoded, or encoded and added up, rounded once. NaN where a value had no place in it."""
    if limbs[LIMBS - 1]:
        return math.nan
    return sum(limb << _LIMB_BITS * at for at, limb in enumerate(limbs[: LIMBS - 1])) / (1 << _UNIT)
