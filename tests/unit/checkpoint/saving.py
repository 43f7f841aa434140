"""Writers as ranks have them, all in one process: they meet on a store and in a folder, and nowhere else."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore, Store

from disttrain.checkpoint import CheckpointValues, CheckpointWriter
from disttrain.config.sections import CheckpointConfig

Tensors = dict[str, torch.Tensor]


def tensors(step: int, rank: int = 0, count: int = 50) -> Tensors:
    return {f"model/w{rank}": torch.full((count, 3), float(step)), f"model/n{rank}": torch.tensor(step)}


def writers(folder: Path, world_size: int = 1, store: Store | None = None, **config: Any) -> list[CheckpointWriter]:
    shared = store or HashStore()
    chosen = CheckpointConfig(**config)
    return [CheckpointWriter(folder, shared, rank, world_size, chosen) for rank in range(world_size)]


def save(ranks: list[CheckpointWriter], *steps: int, **values: Any) -> None:
    """Save on all ranks, one step after the other, and wait."""
    for step in steps:
        for rank, writer in enumerate(ranks):
            writer.save(tensors(step, rank), CheckpointValues(step, **values))
        for writer in ranks:
            assert writer.wait(timeout_s=30)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip_bit(path: Path, at: int = -10) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def poll(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


@contextlib.contextmanager
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What disttrain logs, each line once, whether its logger hands lines on or not."""
    logger = logging.getLogger("disttrain")
    before = logger.propagate
    logger.propagate = False
    logger.addHandler(caplog.handler)
    try:
        yield caplog
    finally:
        logger.removeHandler(caplog.handler)
        logger.propagate = before
