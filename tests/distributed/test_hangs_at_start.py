"""Ranks that are lost before there is a process group, or never come."""

from __future__ import annotations

import os
import re
import signal
import sys
import time

import pytest

from disttrain.comm.control_plane import ControlPlane
from disttrain.errors import PeerLostError
from disttrain.launch.env import RankEnv

from .commands import Commands
from .test_hangs import free_port, start_by_hand


def test_a_rank_killed_before_there_is_a_process_group_is_named(commands: Commands) -> None:
    zero, one = start_by_hand(commands, "data.kwargs.dies_on='1'", "comm.timeout_s=600.0")
    assert one.wait().code == -signal.SIGKILL
    ended = zero.wait()
    assert ended.code == 144, ended.stderr
    assert re.search(
        rf"rank 1 on \S+ \(pid {one.process.pid}\) was lost in phase starting.*: its process is gone", ended.stderr
    ), ended.stderr


def test_a_rank_stopped_before_there_is_a_process_group_is_named(commands: Commands) -> None:
    """A program of its own, so that there is something to stop it in."""
    program = commands.write(
        "meet.py",
        "import sys, time\n"
        "from disttrain.comm.control_plane import ControlPlane\n"
        "from disttrain.launch.env import RankEnv\n"
        "rank, port = int(sys.argv[1]), int(sys.argv[2])\n"
        "control_plane = ControlPlane(RankEnv('env', rank, rank, 0, 2, 2, '127.0.0.1', port), 3.0)\n"
        "control_plane.barrier('met')\n"
        "print('met', file=sys.stderr, flush=True)\n"
        "time.sleep(3600) if rank else control_plane.barrier('ready')\n",
    )
    port = str(free_port())
    zero, one = (commands.start([sys.executable, program, str(rank), port]) for rank in range(2))
    zero.poll(lambda: "met" in zero.stderr, "both there")
    os.kill(one.process.pid, signal.SIGSTOP)
    ended = zero.wait()
    one.kill()
    assert "PeerLostError" in ended.stderr
    assert re.search(r"rank 1 on \S+ \(pid \d+\) was lost in phase starting: no heartbeat for \d s", ended.stderr)
    assert "This rank waited for it at the stage 'ready'" in ended.stderr


def test_ranks_that_never_come_are_named_by_their_numbers() -> None:
    control_plane = ControlPlane(
        RankEnv("env", 0, 0, 0, 4, 4, "127.0.0.1", free_port()), timeout_s=60.0, join_timeout_s=1.5
    )
    began = time.monotonic()
    with pytest.raises(PeerLostError, match=r"ranks 1-3 of the job never sent a heartbeat"):
        control_plane.barrier("start")
    assert time.monotonic() - began < 5
    assert control_plane.heartbeat is not None
    control_plane.heartbeat.close()
