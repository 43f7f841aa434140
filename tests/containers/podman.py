"""podman as these tests call it: as root, with runc, and with nothing of the machine's own settings."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_NAME = "disttrain-test"
_PROGRAMS = ("podman", "runc", "conmon", "mmdebstrap", "iptables")
_FILES = ("/usr/lib/podman/netavark", "/usr/lib/podman/aardvark-dns")


def why_not() -> str:
    """Why no container can run here; empty where they can."""
    if os.geteuid() != 0:
        return "containers with a network of their own need root here"
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    missing += [Path(path).name for path in _FILES if not Path(path).exists()]
    return f"{', '.join(missing)} not installed (Debian: tests/system_packages.sh)" if missing else ""


@functools.cache
def _environment() -> dict[str, str]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    text = (
        f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=32768:32768"]\n'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        '[network]\nnetwork_backend = "netavark"\n'
    )
    folder = Path(tempfile.gettempdir()) / f"{_NAME}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / "containers.conf"
    path.write_text(text)
    return {**os.environ, "CONTAINERS_CONF": str(path)}


def podman(*words: str, check: bool = True, timeout_s: float = 300.0) -> str:
    """`podman WORDS`: what it prints. Raises AssertionError with what it says where it fails."""
    done = _run(words, timeout_s)
    assert done.returncode == 0 or not check, f"podman {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def _run(words: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["podman", *words], env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
