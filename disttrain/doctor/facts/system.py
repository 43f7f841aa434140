"""Limits of this process: cores, memory, shared memory, files, as the kernel and a container set them."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

from disttrain.doctor.facts.model import System

SHM = Path("/dev/shm")
_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60


def find_system() -> System:
    """Of this process."""
    shm = os.statvfs(SHM) if SHM.is_dir() else None
    folder, error = _tmp()
    return System(
        cpus=sorted(os.sched_getaffinity(0)),
        quota=_quota(),
        memory_available=_memory_available(),
        shm_size=shm and shm.f_blocks * shm.f_frsize,
        shm_free=shm and shm.f_bavail * shm.f_frsize,
        open_files=_limit(resource.RLIMIT_NOFILE),
        locked_memory=_limit(resource.RLIMIT_MEMLOCK),
        tmp=folder,
        tmp_error=error,
    )


def _limit(kind: int) -> int | None:
    hard = resource.getrlimit(kind)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def _own_cgroups(controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of those around it: version 2, then those of version 1."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, place = line.split(":", 2)
            if names and controller not in names.split(","):
                continue
            root = _CGROUPS / names if names else _CGROUPS
            own = root / place.lstrip("/")
            # Inside a container the path is often that of the host, and the container's own folder is the root.
            yield from (one for one in (own, *own.parents) if one == root or root in one.parents)
    yield _CGROUPS / controller


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        value = int(path.read_text().split()[0])
        return value if 0 <= value < _UNLIMITED else None
    return None


def _quota() -> float | None:
    found = []
    for folder in _own_cgroups("cpu"):
        with contextlib.suppress(OSError, ValueError):
            used, period = (folder / "cpu.max").read_text().split()[:2]
            if used != "max":
                found.append(int(used) / int(period))
        quota, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period_us:
            found.append(quota / period_us)
    return min(found, default=None)


def _memory_available() -> int | None:
    found = []
    with contextlib.suppress(OSError):
        if match := re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text()):
            found.append(int(match[1]) * 1024)
    for folder in _own_cgroups("memory"):
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, now = _number(folder / most), _number(folder / used)
            if limit is not None and now is not None:
                found.append(max(0, limit - now + _file_cache(folder)))
    return min(found, default=None)


def _file_cache(folder: Path) -> int:
    """Bytes that the cgroup uses for cached files, which the kernel gives back."""
    with contextlib.suppress(OSError):
        if match := re.search(r"^(?:total_)?inactive_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE):
            return int(match[1])
    return 0


def _tmp() -> tuple[str, str | None]:
    """The folder for temporary files, and why none can be written."""
    folder = os.environ.get("TMPDIR") or "/tmp"
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        return folder, error.strerror
    return folder, None
