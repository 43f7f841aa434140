"""Real commands under every launcher: start them, bound their time, look at what they say and leave."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from forked import DISTTRAIN as DISTTRAIN
from forked import DISTTRAIN_ANEW as DISTTRAIN_ANEW
from forked import command_server

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
LAUNCHERS = ("alone", "workers", "torchrun.sh", "torchrun", "mpirun")
ERROR = "disttrain: error: "
_TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str
    wall_s: float

    @property
    def report(self) -> str:
        """Standard error without the lines that say what a slow machine waits for."""
        waits = ("waiting for ", "disttrain: waiting for ")
        return "".join(line for line in self.err.splitlines(True) if not line.startswith(waits))

    @property
    def errors(self) -> list[str]:
        """The lines with which our own messages begin."""
        return [line for line in self.err.splitlines() if line.startswith(ERROR)]

    @property
    def message(self) -> str:
        """Standard error from our first message on."""
        return self.err[self.err.find(ERROR) :] if self.errors else ""


def train_command(launcher: str, arguments: Sequence[str]) -> list[str]:
    """`disttrain train ARGUMENTS` with two ranks under a launcher, or alone."""
    if launcher == "mpirun" and shutil.which("mpirun") is None:
        pytest.skip("mpirun is not installed (Debian: apt-get install --no-install-recommends openmpi-bin)")
    start = {
        "alone": [*DISTTRAIN, "train"],
        "workers": [*DISTTRAIN, "train", "--workers", "2"],
        "torchrun.sh": [str(REPOSITORY / "launchers/torchrun.sh"), "--standalone", "--nproc-per-node", "2"],
        # --standalone: two sessions on one machine would both want torchrun's fixed port.
        "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "-m", "disttrain", "train"],
        "mpirun": ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", *DISTTRAIN, "train"],
    }[launcher]
    return [*start, *arguments]


def start(command: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command in `folder`, as the leader of a process group of its own."""
    return command_server().start(
        command,
        cwd=folder,
        env={**os.environ, "PYTHON": sys.executable, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout_s: float = _TIMEOUT_S, began: float | None = None) -> Outcome:
    """Wait for the end; a command that takes too long is killed with all that it has started."""
    began = time.monotonic() if began is None else began
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{process.args!r} was still running after {timeout_s:g} s. It has said:\n{out}\n{err}")
    return Outcome(process.returncode, out, err, time.monotonic() - began)


def run(command: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> Outcome:
    """Start a command and wait for its end."""
    began = time.monotonic()
    return finish(start(command, folder, env), began=began)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: paths with the bytes of small files. Python's byte code does not count."""
    found: dict[str, bytes | None] = {}
    for path in sorted(folder.rglob("*")):
        if "__pycache__" not in path.parts:
            small = path.is_file() and path.stat().st_size < 100_000
            found[path.relative_to(folder).as_posix()] = path.read_bytes() if small else None
    return found


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """An empty tmpfs on `folder` for a while. Skips the test where this process may not mount."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
