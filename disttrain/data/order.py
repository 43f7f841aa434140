"""Which sample when: a pure function of (seed, epoch, dataset length), the same on every rank."""

from __future__ import annotations

import numpy as np

from disttrain.seed import mix


def epoch_order(seed: int, epoch: int, sample_count: int) -> np.ndarray:
    """The order of an epoch: a permutation of `range(sample_count)`, int64 [sample_count].

    Drawn from numpy's legacy generator, whose stream is frozen (NEP 19), so that a run can be resumed under another
    numpy.
    """
    key = mix(seed, epoch)
    generator = np.random.RandomState([key & 0xFFFFFFFF, key >> 32])
    return generator.permutation(sample_count).astype(np.int64, copy=False)
