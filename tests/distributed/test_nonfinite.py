"""A loss that is not finite: caught on every rank in the same step, written down, and dealt with as the config says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from .commands import DISTTRAIN, Commands, Ended
from .pool import relative_difference

BAD = {"one": [40], "three": [40, 41, 95]}
STEPS = 24
MODULE = """
import torch

class Points(torch.utils.data.TensorDataset):
    classes = ("inside", "outside")

def points(bad=()):
    inputs = torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    targets = (inputs.norm(dim=1) > 1.2).long()
    inputs[list(bad)] = float("inf")
    return Points(inputs, targets)

def network(input_shape, class_count):
    return torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, class_count))
"""
CONFIG = """
model: {name: "parts:network"}
data: {name: "parts:points", split: random, test_fraction: 0.0, placement: stream, loader_workers: 0}
batch: {global_batch_size: 10, micro_batch_size: 3}
optim: {name: sgd, lr: 0.1}
checkpoint: {every_steps: 4}
train: {max_steps: 24, log_every_steps: 1}
"""


def train(commands: Commands, name: str, bad: str, *more: str, workers: int = 2) -> tuple[Ended, Path]:
    commands.write("parts.py", MODULE)
    run_dir = commands.folder / name
    config = commands.write("config.yaml", CONFIG)
    argv: list[str | Path] = [*DISTTRAIN, "train", config, f"data.kwargs={{bad: {BAD[bad]}}}"]
    return commands.run([*argv, *more, "--workers", str(workers), "--run-dir", run_dir]), run_dir


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_loss_that_is_not_finite_stops_the_run_with_4_and_names_its_samples(commands: Commands) -> None:
    ended, run_dir = train(commands, "stop", "one")
    assert ended.code == 4
    assert ended.stderr.count("disttrain: error:") == 1
    assert "(ids): 40. See" in ended.stderr
    (entry,) = lines(run_dir / "nonfinite.jsonl")
    assert entry["suspects"] == [40]
    assert len(entry["ids"]) == 10
    assert 40 in entry["ids"]
    kept = load_file(newest(run_dir) / "tensors_0.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())


def newest(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / (run_dir / "checkpoints/latest").read_text().strip()


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_run_gets_past_such_a_batch_alike_on_any_number_of_ranks(commands: Commands, policy: str) -> None:
    weights = {}
    for workers in (1, 2):
        ended, run_dir = train(commands, f"on_{workers}", "one", f"train.nonfinite={policy}", workers=workers)
        assert ended.code == 0, ended.stderr
        entries = lines(run_dir / "nonfinite.jsonl")
        assert [entry["suspects"] for entry in entries] == [[40], [40]]  # in each of the two epochs
        metrics = {line["step"]: line for line in lines(run_dir / "metrics.jsonl")}
        bad_steps = {entry["step"] for entry in entries}
        assert all((metrics[step]["loss"] is None) == (step in bad_steps) for step in range(1, STEPS + 1))
        weights[workers] = load_file(run_dir / "model/model.safetensors")
    assert relative_difference(weights[2], weights[1]) < 1e-5


def test_a_run_gives_up_when_it_has_been_helped_often_enough(commands: Commands) -> None:
    ended, run_dir = train(commands, "often", "three", "train.nonfinite=skip", "train.nonfinite_retries=2")
    assert ended.code == 4
    assert "was applied 2 times" in ended.stderr
    assert [entry["remedy"] for entry in lines(run_dir / "nonfinite.jsonl")] == ["skip", "skip", "stop"]


def test_a_run_that_has_stopped_goes_on_when_told_to_skip(commands: Commands) -> None:
    assert train(commands, "run", "one")[0].code == 4
    ended, run_dir = train(commands, "run", "one", "train.nonfinite=skip")
    assert ended.code == 0, ended.stderr
    whole = train(commands, "whole", "one", "train.nonfinite=skip")[1]
    assert result(run_dir)["weights_sha256"] == result(whole)["weights_sha256"]


def result(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_dir / "result.json").read_text())
    return content
