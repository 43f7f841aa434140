"""Nothing of a search outlives its driver, whenever that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

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
_RAY = """
import subprocess, time
agent = subprocess.Popen(["sleep", "600"], start_new_session=True, env={})  # does not name the session
print(agent.pid, flush=True)
time.sleep(600)
"""


def test_a_driver_that_is_killed_while_ray_starts_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    session = tmp_path / "session"
    session.mkdir()
    command = [sys.executable, "-c", _DRIVER, str(session), _RAY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        agent = Path("/proc") / driver.stdout.readline().strip()
        assert b"sleep" in (agent / "cmdline").read_bytes()
        assert len(processes_naming(session)) == 4  # itself, the reaper, a placeholder, "Ray"
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    deadline = time.monotonic() + 60
    while (left := processes_naming(session)) or session.exists() or agent.exists():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
