"""Whole programs as a user starts them: with a limit on their time, and a look at what they leave running."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from forked import AGENT as AGENT
from forked import DISTTRAIN as DISTTRAIN
from forked import DISTTRAIN_ANEW as DISTTRAIN_ANEW
from forked import command_server

REPOSITORY = Path(__file__).resolve().parents[2]
TORCHRUN = [str(REPOSITORY / "launchers" / "torchrun.sh")]
_MARK = "DISTTRAIN_TEST_COMMAND"
_HANG_S = 240.0
"""After this long a command counts as hung: far more than it needs on a busy machine."""

needs_horovod = pytest.mark.skipif(importlib.util.find_spec("horovod") is None, reason="Horovod is not installed")


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str
    wall_s: float


class Running:
    """A command that has been started. Its output goes to files: a full pipe would hold it up."""

    def __init__(self, argv: Sequence[str], folder: Path, environ: Mapping[str, str], mark: str) -> None:
        self.argv, self.mark = argv, mark
        name = uuid.uuid4().hex[:6]
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        self._began = time.monotonic()
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = command_server().start(
                argv, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    @property
    def stderr(self) -> str:
        return self._err.read_text(errors="replace")

    def poll(self, condition: Callable[[], bool], what: str, timeout_s: float = _HANG_S) -> None:
        """Return as soon as `condition` holds; fail the test where it does not come to that."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.fail(f"{what}: it did not come to that (exit code {self.process.poll()})")
            time.sleep(0.02)

    def wait(self, timeout_s: float = _HANG_S) -> Ended:
        """Until the command ends. Fails the test where it takes longer, or leaves processes behind."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.fail(f"it has not ended after {timeout_s:g} s")
        wall_s = time.monotonic() - self._began
        deadline = time.monotonic() + 5  # the kernel needs a moment to end those whose parent is gone
        while left := self.processes():
            if time.monotonic() > deadline:
                self.fail(f"it has ended with {code} and left processes: {left}")
            time.sleep(0.02)
        return Ended(code, self._out.read_text(errors="replace"), self.stderr, wall_s)

    def processes(self) -> dict[int, str]:
        """Command lines of all its processes by id, whoever their parent is now: they carry a variable of ours."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:  # it has ended meanwhile, or is another user's
                continue
        return {pid: line for pid, line in found.items() if line}

    def ranks(self) -> list[int]:
        """Process ids of the ranks, the oldest first."""
        return sorted(pid for pid, line in self.processes().items() if "run_module.py disttrain " in line)

    def kill(self) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def fail(self, why: str) -> None:
        self.kill()
        output = f"{self._out.read_text(errors='replace')[-3000:]}\n{self.stderr[-6000:]}"
        pytest.fail(f"{' '.join(map(str, self.argv))}\n{why}. It wrote:\n{output}", pytrace=False)


class Commands:
    """Starts commands in one folder. `shared` is for what several tests read."""

    def __init__(self, folder: Path, shared: Path) -> None:
        self.folder, self.shared = folder, shared
        self._started: list[Running] = []

    def start(self, argv: Sequence[str | Path], **variables: str) -> Running:
        mark = f"{_MARK}={uuid.uuid4().hex}"
        name, _, value = mark.partition("=")
        paths = os.pathsep.join(filter(None, (str(self.folder), os.environ.get("PYTHONPATH"))))
        environ = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": paths, name: value, **variables}
        running = Running([str(one) for one in argv], self.folder, environ, mark)
        self._started.append(running)
        return running

    def run(self, argv: Sequence[str | Path], timeout_s: float = _HANG_S, /, **variables: str) -> Ended:
        return self.start(argv, **variables).wait(timeout_s)

    def succeed(self, argv: Sequence[str | Path], timeout_s: float = _HANG_S, /, **variables: str) -> Ended:
        """`run`, and the exit code must be 0."""
        ended = self.run(argv, timeout_s, **variables)
        assert ended.code == 0, ended.stderr[-6000:]
        return ended

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def close(self) -> None:
        for running in self._started:
            running.kill()
