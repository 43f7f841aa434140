"""Arithmetic that does not depend on where it runs: a fixed number of threads, and kernels that repeat their bits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from disttrain.config import Config
from disttrain.errors import ConfigError

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextlib.contextmanager
def fixed_arithmetic(config: Config) -> Iterator[None]:
    """Within it torch computes as `train.cpu_threads` and `batch.shards` ask for; afterwards as it did before.

    Raises ConfigError where torch does not take that number of threads.
    """
    with contextlib.ExitStack() as restore:
        threads = config.train.cpu_threads or (1 if config.batch.shards else None)
        if threads is not None:
            restore.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
            if torch.get_num_threads() != threads:
                raise ConfigError(
                    f"train.cpu_threads={threads}, but torch takes {torch.get_num_threads()}: something limits it, "
                    "OMP_THREAD_LIMIT say. Remove the limit, or use another number."
                )
        if config.batch.shards:
            _use_deterministic_kernels(restore)
        yield


def _use_deterministic_kernels(restore: contextlib.ExitStack) -> None:
    """An operator that has none raises an error of torch's, which names it."""
    modes = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    restore.callback(torch.use_deterministic_algorithms, modes[0], warn_only=modes[1])
    torch.use_deterministic_algorithms(True)
    # Otherwise torch fills all fresh memory in this mode, which finds mistakes and costs time.
    memory: Any = torch.utils.deterministic
    restore.callback(setattr, memory, "fill_uninitialized_memory", memory.fill_uninitialized_memory)
    memory.fill_uninitialized_memory = False
    if torch.cuda.is_available():
        if _CUBLAS not in os.environ:  # read when the first matrix product is formed
            os.environ[_CUBLAS] = ":4096:8"
            restore.callback(os.environ.pop, _CUBLAS, None)
        restore.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
        torch.backends.cudnn.benchmark = False
