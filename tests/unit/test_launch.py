"""How the exit codes of ranks and agents become that of the command, and how cores are divided."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from disttrain import launch
from disttrain.errors import ConfigError


@pytest.mark.parametrize(
    ("worker", "command"), [(0, 0), (1, 1), (2, 2), (5, 5), (143, 143), (144, 144), (-15, 143), (-9, 144), (-11, 144)]
)
def test_a_ranks_exit_code_is_handed_on_and_its_signal_becomes_one_to_retry(
    worker: int, command: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch._worker_exit_code(3, worker) == command
    told = capsys.readouterr().err
    assert ("rank 3 was killed by SIG" in told) == (worker in (-9, -11))


@pytest.mark.parametrize(
    ("given", "workers", "expected"), [(None, "2", "2"), (None, "3", "1"), (None, "64", "1"), ("7", "2", "7")]
)
def test_ranks_share_the_cores_unless_the_user_says_otherwise(
    given: str | None, workers: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", given) if given else monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launch._divide_cores(SimpleNamespace(nproc_per_node=workers))
    assert os.environ.get("OMP_NUM_THREADS") == expected


def test_options_that_torchrun_refuses_are_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGLEVEL", "CRITICAL")
    with pytest.raises(ConfigError, match=r"torchrun refuses its options: .*Unsupported nproc_per_node value: some"):
        launch._run_agent(["--nproc-per-node", "some", "--module", "disttrain"])


def test_without_a_gpu_auto_is_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert launch.default_worker_count() == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert launch.default_worker_count() == 8
