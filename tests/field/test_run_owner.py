"""One job at a time has a run directory: a second one is refused, and nothing is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from disttrain.config import build_config
from disttrain.errors import ConfigError
from disttrain.run_dir import check_run_dir, claim_run_dir
from disttrain.system.owner import OWNER, FolderOwner, check_not_owned

CONFIG = build_config({})
HOLDER = """
import sys, time
from pathlib import Path
from disttrain.system.owner import FolderOwner
owner = FolderOwner(Path(sys.argv[1]), job=sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
"""


class Holder:
    """Another process that owns a folder."""

    def __init__(self, folder: Path, job: str = "") -> None:
        command = [sys.executable, "-c", HOLDER, str(folder), job]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *failure: object) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_second_job_is_refused_with_the_owners_name_and_changes_nothing(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    claim_run_dir(run_dir, CONFIG, "auto").close()
    with Holder(run_dir) as holder:
        before = listing(tmp_path)
        for resume in ("auto", "never"):
            with pytest.raises(
                ConfigError, match=rf"in use: process {holder.process.pid} of \S+ on \S+, since"
            ) as error:
                claim_run_dir(run_dir, build_config({"train": {"epochs": 2}}), resume)
            assert "another --run-dir" in str(error.value)
        with pytest.raises(ConfigError, match=f"process {holder.process.pid} of"):
            check_not_owned(run_dir)
        assert listing(tmp_path) == before
    claim_run_dir(run_dir, CONFIG, "auto").close()  # a process that is gone owns nothing
    assert not (run_dir / OWNER).exists()


def test_two_trainings_in_one_process_do_not_share_a_folder(tmp_path: Path) -> None:
    owner = FolderOwner(tmp_path)
    for _ in range(2):  # to look does not release the lock
        with pytest.raises(ConfigError, match=f"in use: process {os.getpid()} of"):
            check_not_owned(tmp_path)
    with pytest.raises(ConfigError, match="in use"):
        FolderOwner(tmp_path)
    code = (
        "import sys; from pathlib import Path; from disttrain.system.owner import *; check_not_owned(Path(sys.argv[1]))"
    )
    other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert f"in use: process {os.getpid()} of" in other.stderr
    owner.close()
    FolderOwner(tmp_path).close()


def test_a_process_of_the_same_job_is_waited_for(tmp_path: Path) -> None:
    with Holder(tmp_path, "job7") as holder:
        check_not_owned(tmp_path, "job7")
        with pytest.raises(ConfigError, match="in use"):
            check_not_owned(tmp_path, "job8")
        holder.process.send_signal(signal.SIGKILL)
        FolderOwner(tmp_path, "job7", patience_s=60).close()


def test_what_a_killed_owner_left_is_no_obstacle(tmp_path: Path) -> None:
    for left in ("", "{", "[]", '{"pid": 1, "host": "gone"}'):
        (tmp_path / OWNER).write_text(left)
        check_not_owned(tmp_path)
        FolderOwner(tmp_path).close()


def test_a_folder_made_anew_keeps_its_owner(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    claim_run_dir(run_dir, CONFIG, "auto").close()
    owner = claim_run_dir(run_dir, CONFIG, "never")
    assert (tmp_path / "run.old-1" / "config.yaml").exists()
    assert json.loads((run_dir / OWNER).read_text())["pid"] == os.getpid()
    owner.close()


def test_a_run_dir_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    link = tmp_path / "run"
    link.symlink_to("scratch/run")  # whose target is yet to be made
    check_run_dir(link, CONFIG, "auto")
    claim_run_dir(link, CONFIG, "auto").close()
    claim_run_dir(link, CONFIG, "never").close()
    assert link.is_symlink()
    assert sorted(path.name for path in (tmp_path / "scratch").iterdir()) == ["run", "run.old-1"]
