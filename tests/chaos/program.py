"""A training as a user starts it, its processes, and the signals they get."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from forked import command_server
from processes import parent

_MARK = "DISTTRAIN_CHAOS_PROGRAM"
_POLL_S = 0.001


class ChaosFailure(AssertionError):
    """The training did not do what it must."""


class Program:
    """One command, or one on each node, from start to end. All their processes carry a variable of ours.

    Where its place has no launcher, clock or user of its own, the command is forked (tests/forked.py).
    """

    def __init__(self, commands: Sequence[Sequence[str]], folder: Path, name: str, environ: Mapping[str, str]) -> None:
        self._mark = f"{_MARK}={uuid.uuid4().hex}"
        variables = dict([self._mark.split("=")])
        self.started = time.monotonic()
        self.logs: list[Path] = []
        self._processes = []
        for index, command in enumerate(commands):
            self.logs.append(folder / f"{name}.{index}.log")
            with self.logs[-1].open("w") as log:
                # Output goes to a file: a full pipe would hold the training up.
                self._processes.append(
                    command_server().start(
                        command,
                        cwd=folder,
                        env={**os.environ, **environ, **variables},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )

    def ended(self) -> bool:
        """Whether every command has ended."""
        return all(process.poll() is not None for process in self._processes)

    def codes(self) -> list[int]:
        """Their exit codes as a shell has them: 128 + N for one that signal N has ended."""
        codes = [process.returncode for process in self._processes]
        return [128 - code if code < 0 else code for code in codes]

    def output(self) -> str:
        """All that was written so far."""
        return "\n".join(log.read_text(errors="replace") for log in self.logs)

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> bool:
        """Until it holds (True) or the program has ended (False). Raises ChaosFailure after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.ended():
                return condition()
            if time.monotonic() > deadline:
                raise ChaosFailure(f"a hang: {what} has not come within {timeout_s:g} s; running: {self.processes()}")
            time.sleep(_POLL_S)
        return True

    def wait_for_end(self, timeout_s: float) -> list[int]:
        """The exit codes. Raises ChaosFailure where it takes longer than `timeout_s`, or leaves processes behind."""
        self.wait(self.ended, "the end", timeout_s)
        deadline = time.monotonic() + 30  # the kernel needs a moment to end those whose parent is gone
        while left := self.processes():
            if time.monotonic() > deadline:
                raise ChaosFailure(f"it has ended with {self.codes()} and left processes: {left}")
            time.sleep(0.01)
        return self.codes()

    def processes(self) -> dict[int, str]:
        """Command lines of all its processes by id, whoever their parent is now."""
        return {pid: line for pid in _pids() if self._mark in _variables(pid) and (line := _command_line(pid))}

    def ranks(self) -> dict[int, int]:
        """Process ids of the ranks, by rank. A rank's own children have its variables too: the parent is meant."""
        ranks: dict[int, int] = {}
        mine = {pid: variables for pid in _pids() if self._mark in (variables := _variables(pid))}
        numbers = {pid: int(one[5:]) for pid, variables in mine.items() for one in variables if one.startswith("RANK=")}
        for pid, number in numbers.items():
            if parent(pid) not in numbers:
                ranks[number] = pid
        alone = self._processes[0].pid
        return ranks or ({0: alone} if alone in mine else {})  # a command has its variables shortly after its start

    def targets(self, target: str) -> list[int]:
        """Process ids of `agent`, `ranks`, `all` or one rank's number; those of them that there are."""
        if target == "all":
            return sorted(self.processes())
        if target == "agent":
            return [process.pid for process in self._processes]
        ranks = self.ranks()
        return sorted(ranks.values()) if target == "ranks" else [ranks[one] for one in (int(target),) if one in ranks]

    def send(self, pids: Sequence[int], *signals: str) -> None:
        """Send each signal to all of the processes, one after the other."""
        for name in signals:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.Signals[f"SIG{name}"])

    def kill(self) -> None:
        """End what is left of it."""
        while left := self.processes():
            self.send(list(left), "KILL")
            for process in self._processes:
                process.poll()
            time.sleep(0.01)
        for process in self._processes:
            process.wait()


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208


def _variables(pid: int) -> set[str]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0"))
    except OSError:  # it has ended meanwhile, or is another user's
        return set()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
