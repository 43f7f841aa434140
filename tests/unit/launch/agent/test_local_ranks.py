"""The processes of a node's ranks: real ones, which end, hang, or leave processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from disttrain.launch.agent.local_ranks import Cause, LocalRanks


class Starter:
    """Starts ranks that run shell commands, as torch's agent does: each in a session of its own."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, *commands: str) -> LocalRanks:
        started = [subprocess.Popen(["bash", "-c", one], start_new_session=True) for one in commands]
        self.processes += started
        return LocalRanks(dict(enumerate(started)))


@pytest.fixture
def ranks() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    for process in starter.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_first_rank_that_fails_is_the_cause(ranks: Starter) -> None:
    local = ranks("exit 0", "kill -9 $$", "exec sleep 100")
    local.end_within(0.5)
    assert local.cause() == Cause(1, "was killed by SIGKILL", 144)
    assert (local.running, local.killed) == ([], [2])
    assert local.failed == {1: -9, 2: -9}
    assert local.was_killed_externally


def test_of_several_that_end_at_once_the_one_with_a_reason_is_the_cause(ranks: Starter) -> None:
    local = ranks("exit 144", "exit 3")
    for process in ranks.processes:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    local.poll()
    assert local.cause() == Cause(1, "ended with exit code 3", 3)


def test_a_rank_that_hangs_while_its_peers_leave_is_the_cause(ranks: Starter) -> None:
    local = ranks("exit 144", "kill -STOP $$")
    local.end_within(1)
    assert local.cause() == Cause(1, "had not ended with its peers and was killed", 144)
    assert not local.was_killed_externally  # it was killed here, and its peer has said what happened


def test_ranks_that_end_in_time_are_not_killed_and_not_waited_for_longer(ranks: Starter) -> None:
    local = ranks("trap 'exit 143' TERM; while :; do sleep 0.02; done", "sleep 0.1; exit 143")
    deadline = time.monotonic() + 10
    while not traps_term(ranks.processes[0].pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    local.send(signal.SIGTERM)
    began = time.monotonic()
    local.end_within(60)
    assert time.monotonic() - began < 30
    assert local.killed == []
    assert local.failed[0] == 143


def traps_term(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in status if line.startswith("SigCgt")).split()[1]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_what_a_lost_rank_had_started_ends_with_it(ranks: Starter) -> None:
    local = ranks(f"{sys.executable} -c 'import time; time.sleep(100)' & echo $! >&2; kill -9 $$")
    group = ranks.processes[0].pid
    local.end_within(10)
    deadline = time.monotonic() + 10
    while alive := group_members(group):
        assert time.monotonic() < deadline, alive
        time.sleep(0.02)


def group_members(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == group:
                found.append(int(entry.name))
        except ProcessLookupError:
            continue
    return found
