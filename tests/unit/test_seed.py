"""Randomness is a pure function of numbers, and the one that its reference says."""

from __future__ import annotations

import random

import pytest
import torch

from disttrain.seed import mix, mix_ids, seed_step

MASK = 2**64 - 1


def splitmix64(state: int) -> int:
    """Steele, Lea and Flood 2014, as in the reference C code: increment, then the finaliser of variant 13."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_mix_is_splitmix64_folded_over_the_values() -> None:
    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of the published generator for seed 0
    draw = random.Random(0)
    for _ in range(200):
        a, b, c = (draw.getrandbits(64) for _ in range(3))
        assert mix(a, b, c) == splitmix64(splitmix64(splitmix64(a) ^ b) ^ c)
    assert mix(-1) == splitmix64(MASK)


def test_mix_differs_with_order_and_number_of_values() -> None:
    assert len({mix(1, 2), mix(2, 1), mix(1), mix(1, 2, 0), mix(0, 1, 2)}) == 5


def test_mix_ids_is_the_same_hash_on_tensors() -> None:
    draw = random.Random(1)
    ids = [0, 1, 2, 2**31, 2**63 - 1, *(draw.getrandbits(63) for _ in range(500))]
    for key in (0, 1, 2**63, MASK, draw.getrandbits(64)):
        expected = []
        for one in ids:
            # The finaliser on key + id * golden ratio: `splitmix64` adds the golden ratio itself.
            state = (key + (one - 1) * 0x9E3779B97F4A7C15) & MASK
            expected.append(splitmix64(state) >> 1)
        assert mix_ids(key, torch.tensor(ids)).tolist() == expected


def test_a_sample_has_the_same_hash_in_any_company() -> None:
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    whole = mix_ids(77, ids)
    assert torch.equal(torch.cat([mix_ids(77, part) for part in ids.split(7)]), whole)
    assert torch.equal(mix_ids(77, ids.flip(0)), whole.flip(0))
    assert whole.min() >= 0
    assert len(whole.unique()) == 1000


def test_bits_that_augmentation_uses_are_even() -> None:
    draws = mix_ids(mix(0, 0), torch.arange(80_000))
    for shift, choices in ((0, 8), (8, 5), (32, 5)):
        counts = torch.bincount((draws >> shift) % choices, minlength=choices)
        assert (counts - 80_000 / choices).abs().max() < 5 * (80_000 / choices) ** 0.5


def test_a_step_draws_the_same_again_and_each_step_and_rank_its_own() -> None:
    def drawn(*place: int) -> tuple[float, ...]:
        seed_step(*place)
        return tuple(torch.rand(4).tolist())

    with torch.random.fork_rng():
        first = drawn(3, 10, 1)
        torch.rand(100)
        assert drawn(3, 10, 1) == first
        assert len({drawn(3, 10, 1), drawn(3, 11, 1), drawn(3, 10, 0), drawn(4, 10, 1)}) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_hashes_do_not_depend_on_the_device() -> None:
    ids = torch.arange(10_000)
    assert torch.equal(mix_ids(5, ids.cuda()).cpu(), mix_ids(5, ids))
