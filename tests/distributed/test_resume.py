"""A run that was killed or asked to stop goes on with the same command, and ends with the same bits."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from .commands import DISTTRAIN, REPOSITORY, Commands, Running
from .pool import relative_difference

STEPS = 24
CONFIG = [
    str(REPOSITORY / "configs/synthetic_planes.yaml"),
    "data.kwargs={count: 400}",
    "data.shift_px=1",
    "model.kwargs={width: 8}",
    "model.dropout=0.2",
    "batch.global_batch_size=33",
    "batch.micro_batch_size=6",
    "train.log_every_steps=2",
    "checkpoint.every_steps=4",
    f"train.max_steps={STEPS}",
]


def command(run_dir: Path, workers: int, *more: str) -> list[str]:
    return [*DISTTRAIN, "train", *CONFIG, *more, "--workers", str(workers), "--run-dir", str(run_dir)]


def sha256(run_dir: Path) -> str:
    return str(json.loads((run_dir / "result.json").read_text())["weights_sha256"])


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, without what has to do with time."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    timed = {"time", "samples_per_second"} | {key for one in lines for key in one if key.endswith("_ms")}
    return [{key: one[key] for key in one.keys() - timed} for one in lines if one["split"] != "telemetry"]


def uninterrupted(commands: Commands, workers: int, more: Sequence[str]) -> Path:
    """The run directory of an undisturbed training, made once for all tests of a session. Treat as read-only."""
    run_dir = commands.shared / hashlib.sha256(repr((workers, *more)).encode()).hexdigest()[:16]
    with open(f"{run_dir}.lock", "w") as lock:  # another process of pytest-xdist may be at it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (run_dir / "result.json").exists():
            commands.succeed(command(run_dir, workers, *more))
    return run_dir


def stop_after_first_checkpoint(commands: Commands, argv: list[str], run_dir: Path, number: int) -> Running:
    """Start, wait for a checkpoint, and send the signal to one rank."""
    running = commands.start(argv)
    latest = run_dir / "checkpoints/latest"
    running.poll(latest.exists, "a checkpoint")
    os.kill(running.ranks()[-1], number)
    return running


@pytest.mark.parametrize(
    ("workers", "more"),
    [
        (2, ["optim.name=sgd", "train.precision=bf16"]),
        (3, []),
        (2, ["train.precision=fp16", "optim.clip_norm=0.5", "train.ema_decay=0.9"]),
    ],
    ids=["2_ranks_sgd_bf16", "3_ranks_adamw_fp32", "2_ranks_fp16_clipped_averaged"],
)
def test_resume_after_a_kill_gives_the_same_bits_as_no_interruption(
    commands: Commands, workers: int, more: list[str]
) -> None:
    more = [*more, "checkpoint.every_steps=5"]  # between two lines of metrics.jsonl
    whole, run_dir = uninterrupted(commands, workers, more), commands.folder / "killed"
    argv = command(run_dir, workers, *more)
    ended = stop_after_first_checkpoint(commands, argv, run_dir, signal.SIGKILL).wait()
    assert ended.code == 144
    resumed = commands.succeed(argv)
    assert "goes on from step" in resumed.stderr
    assert sha256(run_dir) == sha256(whole)
    assert metrics(run_dir) == metrics(whole)
    assert json.loads((run_dir / "result.json").read_text())["restarts"] == 1


@pytest.mark.long
def test_a_compiled_network_resumes_to_the_same_bits(commands: Commands) -> None:
    """One rank, and steps of one size: compiling takes long."""
    more = ["model.compile=true", "batch.global_batch_size=32", "train.max_steps=10", "train.eval_every_epochs=0"]
    whole, run_dir = commands.folder / "whole", commands.folder / "killed"
    commands.succeed(command(whole, 1, *more), 300)
    running = commands.start(command(run_dir, 1, *more))
    running.poll((run_dir / "checkpoints/latest").exists, "a checkpoint", timeout_s=300)
    running.process.kill()
    running.wait()
    assert "goes on from step" in commands.succeed(command(run_dir, 1, *more), 300).stderr
    assert sha256(run_dir) == sha256(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2], ids=lambda one: one.name)
def test_a_signal_to_one_rank_saves_and_ends_all_with_143_and_the_same_command_goes_on(
    commands: Commands, number: signal.Signals
) -> None:
    whole, run_dir = uninterrupted(commands, 2, ["train.max_steps=60"]), commands.folder / "asked"
    argv = command(run_dir, 2, "train.max_steps=60")
    ended = stop_after_first_checkpoint(commands, argv, run_dir, number).wait()
    assert ended.code == 143
    assert ended.stderr.count("asked to stop: the checkpoint of step") == 1
    stopped = json.loads((run_dir / "status.json").read_text())
    assert stopped["state"] == "stopped"
    assert (run_dir / f"checkpoints/step_{stopped['step']:08d}").is_dir()
    assert f"goes on from step {stopped['step']} of 60" in commands.succeed(argv).stderr
    assert sha256(run_dir) == sha256(whole)


def test_a_checkpoint_that_would_not_be_ready_in_time_is_not_begun(commands: Commands) -> None:
    whole, run_dir = uninterrupted(commands, 2, ["train.max_steps=60"]), commands.folder / "hurried"
    argv = command(run_dir, 2, "train.max_steps=60", "checkpoint.every_steps=7", "checkpoint.notice_s=0.001")
    ended = stop_after_first_checkpoint(commands, argv, run_dir, signal.SIGTERM).wait()
    assert ended.code == 143
    assert "does not fit into what is left of checkpoint.notice_s=0.001" in ended.stderr
    assert "which is not saved: the checkpoint before it stands" in ended.stderr
    stopped = json.loads((run_dir / "status.json").read_text())["step"]
    resumed = commands.succeed(argv).stderr
    assert f"goes on from step {stopped} of" not in resumed
    assert "goes on from step" in resumed
    assert sha256(run_dir) == sha256(whole)


def test_a_changed_config_goes_on_when_that_is_accepted(commands: Commands) -> None:
    run_dir = commands.folder / "changed"
    commands.succeed(command(run_dir, 1))
    (run_dir / "result.json").unlink()
    changed = command(run_dir, 1, "optim.lr=0.001", f"train.max_steps={STEPS + 6}")
    refused = commands.run(changed)
    assert refused.code == 2
    assert "optim.lr: 0.004 -> 0.001" in refused.stderr
    assert f"goes on from step {STEPS} of {STEPS + 6}" in commands.succeed([*changed, "--accept-changed-config"]).stderr
    assert "lr: 0.001" in (run_dir / "config.yaml").read_text()


def test_a_run_goes_on_with_another_number_of_workers_to_the_same_weights(commands: Commands) -> None:
    whole, run_dir = uninterrupted(commands, 3, ["model.dropout=0.0"]), commands.folder / "fewer"
    ended = stop_after_first_checkpoint(commands, command(run_dir, 3, "model.dropout=0.0"), run_dir, signal.SIGKILL)
    assert ended.wait().code == 144
    commands.succeed(command(run_dir, 2, "model.dropout=0.0"))
    weights = [load_file(one / "model/model.safetensors") for one in (run_dir, whole)]
    assert relative_difference(*weights) < 1e-5


def test_a_damaged_checkpoint_is_refused_by_name_and_training_goes_on_from_the_one_before(commands: Commands) -> None:
    whole, run_dir = uninterrupted(commands, 2, []), commands.folder / "damaged"
    argv = command(run_dir, 2)
    shutil.copytree(whole, run_dir)
    (run_dir / "result.json").unlink()  # as if the run had been killed right after its last checkpoint
    tensors = run_dir / f"checkpoints/step_{STEPS:08d}/tensors_0.safetensors"
    content = bytearray(tensors.read_bytes())
    content[len(content) // 2] ^= 1
    tensors.write_bytes(content)
    resumed = commands.succeed(argv)
    assert f"step_{STEPS:08d} is refused: tensors_0.safetensors is not what was written" in resumed.stderr
    assert f"goes on from step {STEPS - 2} of {STEPS}" in resumed.stderr  # the end of an epoch, best in validation
    assert sha256(run_dir) == sha256(whole)


def test_a_finished_run_is_not_trained_again(commands: Commands) -> None:
    run_dir = commands.folder / "finished"
    shutil.copytree(uninterrupted(commands, 2, []), run_dir)
    before = (run_dir / "result.json").read_text()
    again = commands.succeed(command(run_dir, 2))
    assert "has finished already" in again.stderr
    assert (run_dir / "result.json").read_text() == before
