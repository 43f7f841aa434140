"""Trials of `disttrain tune` whose ranks are on several nodes of a Ray cluster, and the loss of such a node.

The nodes are started as slurm/tune.sbatch starts them, all on this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import parent

from .commands import DISTTRAIN, DISTTRAIN_ANEW, finish, start
from .searches import LIMIT_S, OFTEN_SAVED, TWO_POINTS, check_nothing_left, history, processes_of, until, write_search
from .slurm_jobs import newest_step, weights

pytest.importorskip("ray.tune", reason="Ray is not installed: pip install 'disttrain[tune]'")

SEARCH = TWO_POINTS + "workers_per_trial: 2\nconcurrency: 1\n"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a Ray cluster with three nodes of one CPU each."""
    session = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    (tmp_path / "token").write_text("0" * 64)
    environ = {
        **os.environ,
        "DISTTRAIN_TEST_FOLDER": str(tmp_path),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "SLURM_CPUS_ON_NODE": "1",
    }
    with socket.socket() as one:
        one.bind(("", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "disttrain.commands.ray_node", "127.0.0.1", str(port), str(session)]
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, session, ignore_errors=True)
        for node in range(3):
            log = stack.enter_context((tmp_path / f"node_{node}.log").open("w"))
            process = subprocess.Popen(command, env={**environ, "SLURM_PROCID": str(node)}, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            _wait_until_started(tmp_path / f"node_{node}.log", process)
        yield f"127.0.0.1:{port}"
    for pid in processes_of(tmp_path):  # of a node whose raylet was killed
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    check_nothing_left(tmp_path)


def _wait_until_started(log: Path, process: subprocess.Popen[bytes]) -> None:
    """Two nodes that start at the same time on one machine would take the same socket."""
    deadline = time.monotonic() + LIMIT_S
    while "Ray runtime started" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def raylet_with_ranks(folder: Path) -> int:
    """Of a node with ranks of the trial, whichever Ray has chosen, but for the head: without that, all ends."""
    lines = processes_of(folder)
    hosts = sorted(pid for pid, line in lines.items() if line.startswith(("ray::NodeHost", "ray::TrialWorker")))
    return next(raylet for raylet in map(parent, hosts) if "--head" not in lines[raylet])


@pytest.mark.long
def test_a_trial_on_two_nodes_loses_one_goes_on_on_another_and_has_the_bits_of_local_workers(
    tmp_path: Path, address: str
) -> None:
    write_search(tmp_path, SEARCH, OFTEN_SAVED)
    (tmp_path / "slow").touch()
    words = ["tune", "config.yaml", "search.yaml", "--output", "out", "--ray-address", address, "--ray-nodes", "3"]
    environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    driver = start([*DISTTRAIN_ANEW, *words], tmp_path, environ)
    run_dir = tmp_path / "out/trials/0000"
    until(lambda: newest_step(run_dir) >= 2, "first checkpoint", driver)
    os.kill(raylet_with_ranks(tmp_path), signal.SIGKILL)  # and with it the node
    until(lambda: history(tmp_path).trials[0].attempt == 2, "second start of the trial", driver)
    (tmp_path / "slow").unlink()
    ended = finish(driver, LIMIT_S)
    assert ended.code == 0, ended.err
    assert "1 trials at a time, 1 workers each on each of 2 nodes" in ended.err
    trials = history(tmp_path).trials
    assert [(one.state, one.attempt) for one in trials.values()] == [("finished", 2), ("finished", 1)]
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert [one["world_size"] for one in manifest["starts"]] == [2, 2]
    assert manifest["starts"][1]["first_step"] >= 2
    again = finish(start([*DISTTRAIN, "train", "out/best.yaml", "--run-dir", "again", "--quiet"], tmp_path), LIMIT_S)
    assert again.code == 0, again.err
    best = history(tmp_path).best
    assert best is not None
    assert weights(tmp_path / "again") == weights(tmp_path / f"out/trials/{best.name}")
