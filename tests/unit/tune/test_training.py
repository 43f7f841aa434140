"""One run of a trial from the outside: its lines, its environment, its folder."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from processes import state

from disttrain.system.owner import FolderOwner
from disttrain.system.processes import kill_family
from disttrain.tune.training import Line, clean_environ, vacant_run_dir, validation_lines


def write_lines(run_dir: Path, *lines: object, rest: str = "") -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines) + rest)


def val(epoch: int, accuracy: float | None) -> dict[str, object]:
    return {"split": "val", "epoch": epoch, "step": epoch * 10, "accuracy": accuracy, "loss": 0.1}


def test_the_validation_lines_after_an_epoch_are_found_and_half_ones_left_out(tmp_path: Path) -> None:
    assert validation_lines(tmp_path / "none", "accuracy", 0) == []
    train = {"split": "train", "epoch": 1, "accuracy": 0.3}
    write_lines(tmp_path, val(1, 0.5), train, val(2, 0.6), rest='{"split": "val", "epoch": 3, "accuracy": 0.7')
    assert validation_lines(tmp_path, "accuracy", 0) == [Line(1, 0.5, 10), Line(2, 0.6, 20)]
    assert validation_lines(tmp_path, "accuracy", 1) == [Line(2, 0.6, 20)]
    assert validation_lines(tmp_path, "loss", 1) == [Line(2, 0.1, 20)]


def test_a_figure_that_is_not_finite_is_no_number(tmp_path: Path) -> None:
    write_lines(tmp_path, val(1, None))
    assert math.isnan(validation_lines(tmp_path, "accuracy", 0)[0].value)


def test_a_training_inherits_nothing_of_a_launcher() -> None:
    given = {"RANK": "1", "SLURM_JOB_ID": "5", "RAY_x": "", "TUNE_y": "", "MASTER_ADDR": "a", "HOME": "/h",
             "DISTTRAIN_DATA": "/d", "OMP_NUM_THREADS": "8", "CUDA_VISIBLE_DEVICES": "1"}  # fmt: skip
    expected = {"HOME": "/h", "DISTTRAIN_DATA": "/d", "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "1"}
    assert clean_environ(given, 2) == expected


def test_a_folder_that_somebody_still_has_is_left_to_him_and_a_copy_goes_on(tmp_path: Path) -> None:
    run_dir = tmp_path / "0007"
    write_lines(run_dir, val(1, 0.5))
    (run_dir / "config.yaml").write_text("{}")
    (run_dir / "checkpoints/step_00000010").mkdir(parents=True)
    (run_dir / "checkpoints/step_00000010/shard").write_text("weights")
    assert vacant_run_dir(run_dir) == run_dir
    code = "import sys\nfrom pathlib import Path\nfrom disttrain.system.owner import FolderOwner\n"
    code += f"owner = FolderOwner(Path({str(run_dir)!r}))\nprint('has it', flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "has it\n"
        os.kill(holder.pid, signal.SIGSTOP)  # as all processes of a node that froze
        moved = vacant_run_dir(run_dir, patience_s=0.1)
        os.kill(holder.pid, signal.SIGCONT)
        assert holder.stdin is not None
        holder.stdin.close()
    assert moved == tmp_path / "0007.2"
    assert (moved / "checkpoints/step_00000010/shard").read_text() == "weights"
    with (moved / "metrics.jsonl").open("a") as file:
        file.write("more\n")
    assert "more" not in (run_dir / "metrics.jsonl").read_text()
    FolderOwner(moved).close()  # nobody has it


def test_a_family_of_processes_ends_at_once() -> None:
    code = "import os, time\nfor _ in range(2):\n    if os.fork() == 0: os.setsid()\n"
    code += "os.write(1, b'%d\\n' % os.getpid())\ntime.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(4)]
    kill_family(process.pid)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    deadline = time.monotonic() + 30
    while any(state(pid) not in ("Z", "X") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(state(pid) in ("Z", "X") for pid in pids)
