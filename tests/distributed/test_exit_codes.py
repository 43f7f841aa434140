"""How a job of several ranks ends: one exit code, one report, and nothing left running."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from .commands import DISTTRAIN, TORCHRUN, Commands, Running

USER_CODE = """
import os
import signal
import sys
import time

import torch
from torch import nn

RANK = os.environ.get("RANK")


class Points(torch.utils.data.Dataset):
    classes = ("inside", "outside")

    def __init__(self, raises_on=None, opening=False):
        if opening and RANK == raises_on:
            raise ValueError("the folder is not mounted")
        self.points = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        self.raises_on, self.opening = raises_on, opening

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        if RANK == self.raises_on and index % 20 == 7:
            raise ValueError("the point has no label")
        return self.points[index], int(self.points[index].norm() > 1.2)


class Net(nn.Module):
    def __init__(self, dies_on=None, raises_on=None):
        super().__init__()
        self.layer, self.dies_on, self.raises_on, self.calls = nn.Linear(2, 2), dies_on, raises_on, 0

    def forward(self, points):
        self.calls += self.training
        if self.calls == 5 and RANK == self.dies_on:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.calls == 5 and RANK == self.raises_on:
            raise ArithmeticError("this cannot be computed")
        return self.layer(points)


def broken_net():
    raise ValueError("no such layer")


class NobodyReads:
    def write(self, text):
        time.sleep(3600)


def broken_net_that_cannot_say_so():
    if RANK == "0":
        sys.stderr = NobodyReads()
    return broken_net()
"""
CONFIG = """
model: {name: 'user_code:Net'}
data: {name: 'user_code:Points', placement: device, loader_workers: 0}
batch: {global_batch_size: 20}
train: {epochs: 2}
"""
LAUNCHERS = {
    "workers": lambda config: [*DISTTRAIN, "train", config, "--workers", "2", "--run-dir", "run"],
    "torchrun.sh": lambda config: [*TORCHRUN, "--standalone", "--nproc-per-node", "2", config, "--run-dir", "run"],
}
both_launchers = pytest.mark.parametrize("launcher", LAUNCHERS)


def command(commands: Commands, launcher: str, *overrides: str) -> list[str | Path]:
    commands.write("user_code.py", USER_CODE)
    return [*LAUNCHERS[launcher](commands.write("config.yaml", CONFIG)), *overrides]


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("disttrain: error:")]


def until_it_trains(commands: Commands, launcher: str) -> Running:
    running = commands.start(command(commands, launcher, "train.epochs=1000000"))
    status = commands.folder / "run" / "status.json"
    running.poll(lambda: status.exists() and json.loads(status.read_text())["step"] > 0, "a first step")
    assert len(running.ranks()) == 2
    return running


@both_launchers
def test_a_finished_training_exits_with_0(commands: Commands, launcher: str) -> None:
    ended = commands.succeed(command(commands, launcher))
    result = json.loads((commands.folder / "run" / "result.json").read_text())
    assert (result["status"], result["world_size"], result["step"]) == ("finished", 2, 18)
    assert errors(ended.stderr) == []
    assert sorted(path.name for path in (commands.folder / "run" / "logs").iterdir()) == ["rank_0.log", "rank_1.log"]


@both_launchers
def test_a_killed_rank_ends_the_job_with_144_long_before_the_timeout(commands: Commands, launcher: str) -> None:
    """A job that waited for the timeout would count as hung by then."""
    ended = commands.run(command(commands, launcher, "model.kwargs.dies_on='1'", "comm.timeout_s=600.0"))
    assert ended.code == 144, ended.stderr
    assert "Traceback" not in ended.stderr


@both_launchers
def test_sigterm_to_the_launcher_ends_the_job_with_143(commands: Commands, launcher: str) -> None:
    running = until_it_trains(commands, launcher)
    running.process.send_signal(signal.SIGTERM)
    ended = running.wait()
    assert ended.code == 143, ended.stderr
    assert "Traceback" not in ended.stderr


def test_sigkill_to_the_launcher_leaves_no_rank(commands: Commands) -> None:
    running = until_it_trains(commands, "workers")
    os.kill(running.process.pid, signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL  # `wait` looks for what is left


@pytest.mark.parametrize(
    ("launcher", "kwargs", "reason"),
    [
        ("workers", "{raises_on: '1'}", "the point has no label"),
        ("torchrun.sh", "{raises_on: '1'}", "the point has no label"),
        ("workers", "{raises_on: '1', opening: true}", "the folder is not mounted"),
    ],
    ids=["a_sample-workers", "a_sample-torchrun.sh", "opening-workers"],
)
def test_a_dataset_that_raises_on_one_rank_ends_the_job_with_3_and_one_report_that_names_it(
    commands: Commands, launcher: str, kwargs: str, reason: str
) -> None:
    ended = commands.run(command(commands, launcher, f"data.kwargs={kwargs}"))
    assert ended.code == 3, ended.stderr
    assert len(errors(ended.stderr)) == 1, ended.stderr
    assert errors(ended.stderr)[0].startswith("disttrain: error: [rank 1 on ")
    assert ended.stderr.count(reason) == 1
    assert "Traceback" not in ended.stderr


@both_launchers
def test_a_model_function_that_raises_ends_the_job_with_2_and_one_message(commands: Commands, launcher: str) -> None:
    ended = commands.run(command(commands, launcher, "model.name=user_code:broken_net"))
    assert ended.code == 2, ended.stderr
    assert len(errors(ended.stderr)) == 1, ended.stderr
    assert ended.stderr.count("no such layer") == 1
    assert "Traceback" not in ended.stderr


def test_a_rank_that_hangs_while_it_reports_is_killed_and_named(commands: Commands) -> None:
    ended = commands.run(command(commands, "workers", "model.name=user_code:broken_net_that_cannot_say_so"))
    assert ended.code == 2, ended.stderr
    assert re.search(
        r"^disttrain: rank 0 on \S+ had not ended with its peers and was killed$", ended.stderr, re.MULTILINE
    )
    assert not errors(ended.stderr)
    assert "Traceback" not in ended.stderr


def test_a_network_that_raises_on_one_rank_ends_the_job_with_1_and_one_traceback(commands: Commands) -> None:
    ended = commands.run(command(commands, "workers", "model.kwargs.raises_on='1'"))
    assert ended.code == 1, ended.stderr
    assert len(errors(ended.stderr)) == 1, ended.stderr
    assert errors(ended.stderr)[0].startswith("disttrain: error: [rank 1 on ")
    assert ended.stderr.count("Traceback (most recent call last)") == 1
    assert "in forward" in ended.stderr
