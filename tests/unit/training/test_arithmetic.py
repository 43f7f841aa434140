"""A fixed number of threads and deterministic kernels, for as long as a training lasts."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from disttrain.config import build_config
from disttrain.training.arithmetic import fixed_arithmetic


def state() -> tuple[Any, ...]:
    memory: Any = torch.utils.deterministic  # its type has no names
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        memory.fill_uninitialized_memory,
    )


@pytest.mark.parametrize(
    ("sections", "threads", "is_deterministic"),
    [
        ({"batch": {"shards": 4}}, 1, True),
        ({"batch": {"shards": 4}, "train": {"cpu_threads": 3}}, 3, True),
        ({"train": {"cpu_threads": 2}}, 2, False),
        ({}, None, False),
    ],
)
def test_threads_and_kernels_are_fixed_within_and_as_before_afterwards(
    sections: dict[str, Any], threads: int | None, is_deterministic: bool
) -> None:
    before = state()
    with contextlib.suppress(ZeroDivisionError), fixed_arithmetic(build_config(sections)):
        assert state() == (threads or before[0], is_deterministic, False, before[3] and not is_deterministic)
        raise ZeroDivisionError
    assert state() == before
