"""How the C library deals with memory that is freed."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_KEPT = (256 << 20, 32 << 20)  # bytes; glibc before 2.35 takes 32 MiB at most
_SET_BY_THE_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for what it allocates next; returns whether it does.

    glibc gives large blocks back to the system at once, and the kernel zeroes every page of the next one. A network on
    the CPU allocates the same activations and gradients in every step, so that much of its time may go there
    (docs/benchmarks.md). The most that the process has had in use at once, in blocks of 256 MiB or less, stays with it.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _SET_BY_THE_USER):
        return False
    library = ctypes.CDLL(None)
    kept = any(library.mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT)
    return bool(kept and library.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))
