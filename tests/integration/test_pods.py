"""The pods of a PyTorchJob, as two processes with the environment that its operator gives them: `disttrain train` alone
is the container's command."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from .commands import DISTTRAIN, REPOSITORY, finish, start
from .two_nodes import TwoNodes, why_not

_CONFIG = ["configs/synthetic_planes.yaml", "data.kwargs={count: 300}", "train.max_steps=3", "data.cache_dir={cache}"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address() -> str:
    """An address of this machine by which another could reach it: ranks on several nodes refuse localhost."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it only picks the outgoing address
        except OSError:
            pytest.skip("no network interface besides the loopback")
        return str(probe.getsockname()[0])


def _run_pods(pods: list[dict[str, str]], run_dir: Path) -> int:
    """World size of the run that the pods make together."""
    arguments = [one.replace("{cache}", str(run_dir / "cache")) for one in _CONFIG]
    command = [*DISTTRAIN, "train", *arguments, "--run-dir", str(run_dir / "run"), "--quiet"]
    processes = [start(command, REPOSITORY, pod) for pod in pods]
    outcomes = [finish(process) for process in processes]
    assert [one.code for one in outcomes] == [0] * len(pods), [one.err for one in outcomes]
    return int(json.loads((run_dir / "run/result.json").read_text())["world_size"])


def _static(address: str, port: int, rank: int, world_size: int, per_node: str) -> dict[str, str]:
    meeting = {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    pod = {**meeting, **{f"PET_{name}": value for name, value in meeting.items()}}
    counts = {"WORLD_SIZE": str(world_size), "RANK": str(rank), "PET_NODE_RANK": str(rank), "PET_NNODES": "2"}
    return {**pod, **counts, "PET_NPROC_PER_NODE": per_node}


def test_a_master_and_a_worker_with_one_process_each_join_as_two_ranks(address: str, tmp_path: Path) -> None:
    port = _free_port()
    pods = [_static(address, port, rank, 2, "auto") for rank in range(2)]
    assert _run_pods(pods, tmp_path) == 2


def test_a_master_and_a_worker_with_two_processes_each_start_four_ranks(address: str, tmp_path: Path) -> None:
    port = _free_port()
    pods = [_static(address, port, rank, 4, "2") for rank in range(2)]
    assert _run_pods(pods, tmp_path) == 4


def test_two_workers_of_an_elastic_job_meet_and_train(tmp_path: Path) -> None:
    pod = {
        "PET_RDZV_ENDPOINT": f"localhost:{_free_port()}",
        "PET_RDZV_BACKEND": "c10d",
        "PET_NNODES": "2:2",
        "PET_NPROC_PER_NODE": "auto",
    }
    assert _run_pods([pod, pod], tmp_path) == 2


_LATE_S = 20.0


@pytest.mark.long
@pytest.mark.skipif(why_not() != "", reason=why_not() or "it can run")
@pytest.mark.parametrize("per_node", ["auto", "2"])
def test_a_worker_waits_for_a_name_and_then_for_a_port_that_come_late(tmp_path: Path, per_node: str) -> None:
    world_size = 2 if per_node == "auto" else 4
    arguments = [one.replace("{cache}", str(tmp_path / "cache")) for one in _CONFIG]
    command = [*DISTTRAIN, "train", *arguments, "--run-dir", str(tmp_path / "run")]
    with TwoNodes.made(tmp_path) as nodes:
        pods = [_static("j-master-0", 23456, rank, world_size, per_node) for rank in range(2)]
        worker = nodes.start("far", command, REPOSITORY, pods[1])
        time.sleep(_LATE_S)
        nodes.add_name("near", "j-master-0")
        time.sleep(_LATE_S)
        assert worker.poll() is None
        master = nodes.start("near", command, REPOSITORY, pods[0])
        outcomes = [finish(process) for process in (master, worker)]
    assert [one.code for one in outcomes] == [0, 0], [one.err for one in outcomes]
    assert "waiting for j-master-0:23456, where the pods meet" in outcomes[1].err
    assert json.loads((tmp_path / "run/result.json").read_text())["world_size"] == world_size
