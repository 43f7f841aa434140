"""What is wrong with the machine before a search starts, each in one message; and a disk that fills up meanwhile."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from disttrain.tune.journal import read_journal

from .commands import DISTTRAIN_ANEW, finish, mounted, run, start
from .searches import LIMIT_S, TWO_POINTS, check_nothing_left, history, reported, until, write_search

pytest.importorskip("ray.tune", reason="Ray is not installed: pip install 'disttrain[tune]'")

COMMAND = ["tune", "config.yaml", "search.yaml", "--output", "out"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_search(tmp_path, TWO_POINTS + "concurrency: 1\n")
    return tmp_path


def on_small_disks(*mounts: str) -> list[str]:
    """`disttrain tune` in a mount namespace of its own, after some `SIZE FOLDER` are mounted there. Needs root."""
    script = "".join(f"mount -t tmpfs -o size={one.replace(' ', ' tmpfs ')};" for one in mounts) + 'exec "$@"'
    return ["unshare", "--mount", "sh", "-ec", script, "sh", *DISTTRAIN_ANEW, *COMMAND]


def test_a_ray_that_is_too_old_is_refused_with_the_way_out(folder: Path) -> None:
    old = folder / "site"
    (old / "ray").mkdir(parents=True)
    (old / "ray/__init__.py").write_text("raise ImportError('Ray was imported')\n")
    (old / "ray-2.9.3.dist-info").mkdir()
    (old / "ray-2.9.3.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.9.3\n")
    paths = os.pathsep.join((str(old), os.environ.get("PYTHONPATH", "")))
    done = run([*DISTTRAIN_ANEW, *COMMAND], folder, {"PYTHONPATH": paths})
    assert done.code == 2
    assert len(done.errors) == 1
    assert "Ray 2.9.3 is installed, and disttrain tune needs 2.44 or newer" in done.message
    assert "pip install 'disttrain[tune]' --upgrade" in done.message


def test_a_full_tmp_is_told_before_ray_starts(folder: Path) -> None:
    done = run(on_small_disks("1m /tmp"), folder, {"TMPDIR": str(folder)})
    assert done.code == 2
    assert len(done.errors) == 1
    assert "/tmp has 1 MiB free, and Ray's sockets and logs need 64 MiB" in done.message
    assert "TMPDIR" in done.message


@pytest.fixture
def listener() -> Iterator[int]:
    """A port at which somebody listens who is no Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_another_program_has_is_told_at_once(folder: Path, listener: int) -> None:
    command = [sys.executable, "-m", "disttrain.commands.ray_node", "127.0.0.1", str(listener), str(folder / "ray")]
    done = run(command, folder)
    assert done.code == 2
    assert len(done.errors) == 1
    assert f"port {listener} of 127.0.0.1 is in use" in done.message


@pytest.mark.long
def test_little_shared_memory_costs_a_warning_and_nothing_else(folder: Path) -> None:
    done = finish(start(on_small_disks("4m /dev/shm"), folder, {"DISTTRAIN_TEST_FOLDER": str(folder)}), LIMIT_S)
    assert done.code == 0, done.err
    assert done.err.count("/dev/shm has 4 MiB free: Ray's objects go to /tmp") == 1
    assert [one.state for one in history(folder).trials.values()] == ["finished", "finished"]
    check_nothing_left(folder)


@pytest.mark.long
def test_a_search_whose_disk_is_full_ends_with_one_message_and_goes_on_by_resume(folder: Path) -> None:
    (folder / "slow").touch()
    environ = {"DISTTRAIN_TEST_FOLDER": str(folder)}
    with mounted(folder / "out", "size=24m"):
        driver = start([*DISTTRAIN_ANEW, *COMMAND], folder, environ)
        until(lambda: reported(folder, 0, 1), "first report", driver)
        filler = folder / "out/filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        (folder / "slow").unlink()
        ended = finish(driver, LIMIT_S)
        assert ended.code == 1
        assert len(ended.errors) == 1, ended.err
        assert "cannot be written" in ended.message
        assert "No space left on device" in ended.message
        assert "--resume goes on" in ended.message
        check_nothing_left(folder)
        filler.unlink()
        resumed = finish(start([*DISTTRAIN_ANEW, *COMMAND, "--resume"], folder, environ), LIMIT_S)
        assert resumed.code == 0, resumed.err
        ends = [one["trial"] for one in read_journal(folder / "out/journal.jsonl") if one["event"] == "end"]
        trials = history(folder).trials
    assert sorted(ends) == [0, 1]
    assert {one.state for one in trials.values()} == {"finished"}
