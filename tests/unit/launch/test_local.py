"""From the options of a launch to an agent, and how cores are divided."""

from __future__ import annotations

import argparse
import os

import pytest
from torch.distributed import run as torchrun
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler

from disttrain.errors import ConfigError
from disttrain.launch import local
from disttrain.launch.agent.rendezvous import RoundRendezvous


@pytest.mark.parametrize(
    ("given", "workers", "expected"), [(None, "2", "2"), (None, "3", "1"), (None, "64", "1"), ("7", "2", "7")]
)
def test_ranks_share_the_cores_unless_the_user_says_otherwise(
    given: str | None, workers: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", given) if given else monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    local._divide_cores(workers)
    assert os.environ.get("OMP_NUM_THREADS") == expected


def test_options_that_torchrun_refuses_are_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGLEVEL", "CRITICAL")
    with pytest.raises(ConfigError, match=r"torchrun refuses its options: .*Unsupported nproc_per_node value: some"):
        local.run_agent(["--nproc-per-node", "some", "--module", "disttrain"], notice_s=30)


def test_without_a_gpu_auto_is_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert local.default_worker_count() == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert local.default_worker_count() == 8


def options(*words: str) -> argparse.Namespace:
    return torchrun.parse_args([*words, "train.py"])


@pytest.mark.parametrize("words", [["--standalone"], ["--nnodes", "1"], []])
def test_a_job_on_one_node_meets_at_a_free_port(words: list[str]) -> None:
    chosen = options(*words)
    chosen.master_port = None  # a torch before 2.15 says 29500 also where the user does not
    local._choose_meeting_place(chosen)
    assert (chosen.rdzv_backend, chosen.rdzv_endpoint) == ("c10d", "localhost:0")
    other = options(*words)
    other.master_port = None
    local._choose_meeting_place(other)
    assert chosen.rdzv_id != other.rdzv_id


@pytest.mark.parametrize(
    "words", [["--master-port", "1234"], ["--rdzv-endpoint", "localhost:1"], ["--nnodes", "2", "--node-rank", "1"]]
)
def test_a_meeting_place_that_the_user_gives_stays(words: list[str]) -> None:
    chosen, given = options(*words), options(*words)
    local._choose_meeting_place(chosen)
    assert (chosen.rdzv_backend, chosen.rdzv_endpoint) == (given.rdzv_backend, given.rdzv_endpoint)
    assert chosen.master_port == (given.master_port or 29500)


@pytest.mark.parametrize(("given", "seconds"), [([], 5), (["--rdzv-conf", "last_call_timeout=40"], 40)])
def test_a_job_waits_a_short_while_for_more_nodes_unless_the_user_says_otherwise(
    given: list[str], seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # the agent sets it
    place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--nnodes", "1:2"]
    arguments = torchrun.parse_args([*place, *given, "--max-restarts", "3", "--module", "disttrain"])
    agent = local._build_agent(arguments, notice_s=7, server=None)
    spec = agent.get_worker_group().spec
    assert spec.max_restarts == 3
    assert isinstance(spec.rdzv_handler, RoundRendezvous)
    handler = spec.rdzv_handler._handler
    assert isinstance(handler, DynamicRendezvousHandler)
    assert handler.settings.timeout.last_call.total_seconds() == seconds


def test_as_many_ranks_as_there_are_devices_share_the_cores_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGLEVEL", "CRITICAL")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setattr(torchrun.torch._utils, "cpu_count", lambda: 3)
    monkeypatch.setattr(local, "_build_agent", lambda *given: argparse.Namespace(run_job=lambda: 0))
    assert local.run_agent(["--nproc-per-node", "cpu", "--module", "disttrain"], notice_s=30) == 0
    assert os.environ["OMP_NUM_THREADS"] == "2"
