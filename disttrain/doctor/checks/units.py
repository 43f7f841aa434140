"""Sizes and speeds, as people read them."""

from __future__ import annotations


def size(count: float) -> str:
    """`64 MiB`, `1.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 10 or count == int(count) else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def speed(count: float) -> str:
    """Bytes per second: `120 MB/s`."""
    return f"{count / 1e9:.1f} GB/s" if count >= 1e9 else f"{count / 1e6:.3g} MB/s"


def several(count: int, what: str) -> str:
    """`1 rank`, `2 ranks`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def bandwidth(size: int, seconds: float, world_size: int) -> float:
    """Bytes per second over each rank's link: what an allreduce moves at least, 2 (n - 1) / n of its size."""
    return 2 * (world_size - 1) / world_size * size / max(seconds, 1e-9)
