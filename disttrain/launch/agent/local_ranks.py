"""The processes of one node's ranks, from their start to the last exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from disttrain.errors import PeerLostError
from disttrain.launch.exit_codes import describe, job_exit_code

_POLL_S = 0.05
_REAP_S = 10.0  # a process in an uninterruptible call to the kernel outlives even SIGKILL


class Cause(NamedTuple):
    """Why a round ends: what happened to `rank`, as the rest of a sentence, and the exit code of the job."""

    rank: int
    what: str
    exit_code: int


class Process(Protocol):
    """Of subprocess.Popen and ForkedRank, what is used here."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """The exit code, negative where a signal has ended it; None while it runs."""

    def send_signal(self, number: int, /) -> None:
        """Nothing happens where it has ended."""


class LocalRanks:
    """Running ranks by their number. Each leads a process group of its own."""

    def __init__(self, processes: Mapping[int, Process]) -> None:
        self._running = dict(processes)
        self.ended: dict[int, int] = {}
        """Exit codes, negative where a signal killed the rank, in the order of their coming."""
        self.killed: list[int] = []
        """Ranks that `kill` had to end."""

    def poll(self) -> None:
        """Take notice of ranks that have ended."""
        codes = {rank: process.poll() for rank, process in self._running.items()}
        found = {rank: code for rank, code in codes.items() if code is not None}
        # Of several at once: those that say why come before those that lost a peer by it.
        for rank, code in sorted(found.items(), key=lambda one: (job_exit_code(one[1]) >= 128, one[1] > 0, one[0])):
            self.ended[rank] = code
            process = self._running.pop(rank)
            if code != 0:
                _signal_group(process, signal.SIGKILL)  # what it had started ends with it

    @property
    def running(self) -> list[int]:
        """Ranks that have not ended yet."""
        return list(self._running)

    @property
    def failed(self) -> dict[int, int]:
        """Exit codes of those that did not end well, the first one first."""
        return {rank: code for rank, code in self.ended.items() if code != 0}

    @property
    def was_killed_externally(self) -> bool:
        """Whether one of them was killed by somebody else, and so could not say why it ends."""
        return any(code < 0 for rank, code in self.failed.items() if rank not in self.killed)

    def send(self, number: signal.Signals) -> None:
        """A signal to each rank that runs, not to the processes that it has started."""
        for process in self._running.values():
            process.send_signal(number)

    def end_within(self, seconds: float) -> None:
        """Wait for the ranks to end by themselves, and kill those that have not after so many seconds."""
        self._wait(seconds)
        if not self._running:
            return
        self.killed += self._running
        for process in self._running.values():
            _signal_group(process, signal.SIGKILL)
        self._wait(_REAP_S)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self.poll()
        while self._running and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            self.poll()

    def cause(self) -> Cause:
        """Why the first rank that failed did so, or, where it lost a peer that had to be killed here, that peer."""
        rank, code = next(iter(self.failed.items()))
        if self.killed and code == PeerLostError.exit_code:
            return Cause(self.killed[0], "had not ended with its peers and was killed", code)
        return Cause(rank, describe(code), job_exit_code(code))


def _signal_group(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
