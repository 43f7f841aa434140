"""Randomness as a pure function of where training stands, so that there is no generator state to save.

Dropout draws from torch's default generator, which is reseeded from (seed, step, share) before the first micro-batch of
every share, a rank's slice or a shard: a run resumed at step k draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import torch

_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """A 64-bit hash of integers: splitmix64 (Steele, Lea and Flood 2014) folded over the values."""
    state = 0
    for value in values:
        state = (state ^ (value & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def mix_ids(key: int, ids: torch.Tensor) -> torch.Tensor:
    """One non-negative 63-bit hash per sample id: int64 [n] -> int64 [n], on the device of `ids`.

    The same finaliser as `mix`, on tensors: int64 products wrap, and masking makes the right shifts logical.
    """
    state = ids * -0x61C8864680B583EB + _signed(key)
    state = (state ^ _shift_right(state, 30)) * -0x40A7B892E31B1A47
    state = (state ^ _shift_right(state, 27)) * -0x6B2FB644ECCEEE15
    return _shift_right(state ^ _shift_right(state, 31), 1)


def _shift_right(state: torch.Tensor, bits: int) -> torch.Tensor:
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def seed_step(seed: int, step: int, share: int) -> None:
    """Reseed torch's default generators (CPU and, where it is in use, CUDA) for one share of an optimizer step."""
    key = mix(seed, step, share) >> 1
    torch.default_generator.manual_seed(key)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(key)


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Within it everything may be drawn; afterwards all default generators are as they were."""
    import numpy as np

    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu)
