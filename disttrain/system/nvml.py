"""NVML, the library behind nvidia-smi, through nvidia-ml-py. What a driver or a GPU does not tell is None."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

SLOWED = {0x08: "hardware slowdown", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}
"""NVML's reasons for a lower clock that are none of normal work (nvml.h)."""


@contextlib.contextmanager
def nvml_session() -> Iterator[Any]:
    """The module `pynvml`, initialised. Raises ImportError without nvidia-ml-py, pynvml.NVMLError without a driver."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def tried(ask: Callable[[], T]) -> T | None:
    """An answer, None where this GPU or this driver has none."""
    try:
        return ask()
    except Exception:  # NVMLError; NVMLLibraryMismatchError, which is none, of a driver older or newer than pynvml
        return None


def slowed_by(reasons: int) -> list[str]:
    """In words why a GPU runs below its clocks, but for what belongs to normal work."""
    return [text for bit, text in SLOWED.items() if reasons & bit]


def text_of(value: str | bytes) -> str:
    """Older versions of nvidia-ml-py give bytes."""
    return value.decode() if isinstance(value, bytes) else value
