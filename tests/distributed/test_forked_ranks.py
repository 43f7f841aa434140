"""The process from which an agent forks its ranks, in a training: it comes and goes with the agent, and may be lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from processes import parent

from .commands import DISTTRAIN, DISTTRAIN_ANEW, Commands, Running
from .test_elastic import LONGER, after_a_checkpoint
from .test_resume import command


def server_of(running: Running) -> int | None:
    servers = [pid for pid, line in running.processes().items() if "run_module.py --fork" in line]
    assert len(servers) <= 1
    return servers[0] if servers else None


def test_a_lost_server_is_replaced_at_the_next_start_and_all_end_with_the_agent(commands: Commands) -> None:
    run_dir = commands.folder / "run"
    more = ("train.max_steps=100000", "train.epochs=10000", "--max-restarts", "1")
    words = command(run_dir, 2, *LONGER, *more)[len(DISTTRAIN) :]
    running = after_a_checkpoint(commands.start([*DISTTRAIN_ANEW, *words]), run_dir)
    agent, first, ranks = running.process.pid, server_of(running), running.ranks()
    assert first is not None
    assert {parent(pid) for pid in (first, *ranks)} == {agent}
    assert all("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in (first, *ranks))
    assert "libcuda.so" not in Path(f"/proc/{first}/maps").read_text()

    os.kill(first, signal.SIGKILL)
    status = run_dir / "status.json"
    before = status.stat().st_mtime_ns
    running.poll(lambda: status.stat().st_mtime_ns > before, "ranks that go on")
    assert running.ranks() == ranks

    os.kill(ranks[-1], signal.SIGKILL)
    running.poll(lambda: "goes on from step" in running.stderr, "a second start")
    second, again = server_of(running), running.ranks()
    assert second not in (None, first)
    assert {parent(pid) for pid in again} == {agent}
    assert not set(again) & set(ranks)

    os.kill(agent, signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL  # `wait` looks for processes that it left
