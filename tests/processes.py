"""What the kernel says of a process (proc(5), /proc/PID/stat)."""

from __future__ import annotations

from pathlib import Path


def state(pid: int) -> str:
    """One letter: `T` where it is stopped, `Z` where its parent has not noted its end, `X` where it is gone."""
    return _fields(pid)[0]


def parent(pid: int) -> int:
    """The id of its parent; 0 where it is gone."""
    return int(_fields(pid)[1])


def _fields(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X", "0"]
