from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import disttrain.commands.horovodrun
from disttrain.commands.start import check_train
from disttrain.launch.mpi import horovodrun

safe_shell_exec = pytest.importorskip("horovod.runner.common.util.safe_shell_exec")


def test_horovod_kills_ranks_after_the_grace_period_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the processes that Horovod makes: those import the main module anew, and it is they who wait."""
    config = tmp_path / "config.yaml"
    config.write_text("model: {name: mnist_mlp}\ndata: {name: synthetic_planes}\ntrain: {backend: horovod}\n")
    monkeypatch.setattr(safe_shell_exec, "GRACEFUL_TERMINATION_TIME_S", 5)
    monkeypatch.setenv("DISTTRAIN_KILL_AFTER_S", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(horovodrun, "_run_gloo", lambda words: 0)
    assert horovodrun.start(["-np", "1", str(config), "checkpoint.notice_s=120"], check_train) == 0
    assert safe_shell_exec.GRACEFUL_TERMINATION_TIME_S == 122
    safe_shell_exec.GRACEFUL_TERMINATION_TIME_S = 5
    importlib.reload(disttrain.commands.horovodrun)
    assert safe_shell_exec.GRACEFUL_TERMINATION_TIME_S == 122
