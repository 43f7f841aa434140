"""Nothing of a search outlives its driver, whenever that is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from disttrain.system.import_path import RUN_MODULE
from disttrain.tune.reaper import processes_naming

_DRIVER = """
import os, subprocess, sys, time
from pathlib import Path
from disttrain.tune.reaper import own_group, reaping
session = Path(sys.argv[1])
with reaping(session):
    with own_group():
        ray = subprocess.Popen([sys.executable, "-c", sys.argv[2], str(session)], start_new_session=True)
        time.sleep(600)
"""
# As Ray: the kernel ends it with the driver, and not the helper that it has started.
_RAY = """
import os, subprocess, time
from disttrain.system.processes import die_with_parent
die_with_parent(os.getppid())
agent = subprocess.Popen(["sleep", "600"], start_new_session=True, env={})  # does not name the session
print(agent.pid, flush=True)
time.sleep(600)
"""


def looks(reaper: int) -> int:
    """Of a process that waits between them."""
    lines = Path(f"/proc/{reaper}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("voluntary_ctxt_switches")))


def test_a_driver_that_is_killed_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    session = tmp_path / "session"
    session.mkdir()
    command = [sys.executable, "-c", _DRIVER, str(session), _RAY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None
            agent = Path("/proc") / driver.stdout.readline().strip()
            assert b"sleep" in (agent / "cmdline").read_bytes()
            named = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_naming(session)}
            assert len(named) == 4  # itself, the reaper, a placeholder, "Ray"
            (reaper,) = (pid for pid, line in named.items() if RUN_MODULE.encode() in line)
            before = looks(reaper)
            until(lambda: looks(reaper) >= before + 2)
        finally:
            driver.kill()
    until(lambda: not processes_naming(session) and not session.exists() and not agent.exists())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
