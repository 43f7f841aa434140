"""The shell scripts that pods run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .overlays import REPOSITORY

_RUN = REPOSITORY / "k8s/base/statefulset/run.sh"
_PUBLISH = REPOSITORY / "k8s/base/publish/publish.sh"
_LIMIT_S = 60.0


def _pod(folder: Path, body: str) -> subprocess.Popen[str]:
    """run.sh as pod number 3, where `disttrain` is a shell script."""
    command = folder / "bin/disttrain"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    command.chmod(0o755)
    env = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "TMPDIR": str(folder), "HOSTNAME": "train-3"}
    return subprocess.Popen(["/bin/bash", str(_RUN), "train", "c.yaml"], env=env, stderr=subprocess.PIPE, text=True)


def _await_file(path: Path) -> str:
    deadline = time.monotonic() + _LIMIT_S
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text().strip()


@pytest.mark.parametrize("code", [143, 144])
def test_a_pod_that_may_go_on_ends_and_is_started_again(code: int, tmp_path: Path) -> None:
    assert _pod(tmp_path, f"exit {code}").wait(_LIMIT_S) == code


@pytest.mark.parametrize(("code", "says"), [(0, "has finished"), (2, "in the same way"), (1, "in the same way")])
def test_a_pod_whose_training_has_ended_holds_until_it_is_asked_to_leave(code: int, says: str, tmp_path: Path) -> None:
    pod = _pod(tmp_path, f'echo "$PET_NODE_RANK $*" >"$TMPDIR/called"; exit {code}')
    assert _await_file(tmp_path / "ended") == str(code)
    assert pod.poll() is None
    pod.send_signal(signal.SIGTERM)
    _, err = pod.communicate(timeout=_LIMIT_S)
    assert pod.returncode == 0
    assert says in err
    assert (tmp_path / "called").read_text() == "3 train c.yaml\n"


def test_a_pod_is_not_started_again_for_ever(tmp_path: Path) -> None:
    (tmp_path / "starts").write_text("20\n")
    pod = _pod(tmp_path, "exit 144")
    assert _await_file(tmp_path / "ended") == "144"
    pod.send_signal(signal.SIGTERM)
    assert "more than DISTTRAIN_MAX_RESTARTS=20" in pod.communicate(timeout=_LIMIT_S)[1]


def test_a_pod_that_is_asked_to_stop_hands_the_signal_on_and_the_code_back(tmp_path: Path) -> None:
    body = 'trap "sleep 0.3; exit 143" TERM; echo yes >"$TMPDIR/up"; while true; do sleep 0.05; done'
    pod = _pod(tmp_path, body)
    _await_file(tmp_path / "up")
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(_LIMIT_S) == 143


def _publish(*words: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/bash", str(_PUBLISH), *map(str, words)], capture_output=True, text=True)


def test_a_newer_model_takes_the_place_of_the_old_one_which_stays_beside_it(tmp_path: Path) -> None:
    model, folder = tmp_path / "model", tmp_path / "models"
    model.mkdir()
    for content in ("{}", '{"classes": 2}'):
        (model / "model.json").write_text(content)
        assert _publish(model, folder).returncode == 0
        assert (folder / "live/model.json").read_text() == content
    assert _publish(model, folder).returncode == 0
    assert sorted(path.is_symlink() for path in folder.iterdir()) == [False, False, True]


def test_what_is_no_model_is_not_published(tmp_path: Path) -> None:
    done = _publish(tmp_path, tmp_path / "models")
    assert done.returncode == 3
    assert "has no model.json" in done.stderr
    assert not (tmp_path / "models").exists()
