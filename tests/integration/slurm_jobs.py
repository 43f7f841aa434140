"""What the jobs of test_slurm.py train, and what is to come of it."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .commands import DISTTRAIN

# As long as the file `slow` is there a step takes its time, so that it can be disturbed; without it none does.
MODULE = """
import os
import time

import torch


class Points(torch.utils.data.Dataset):
    classes = ["inside", "outside"]

    def __init__(self):
        self.points = torch.randn(320, 8, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        if os.path.exists("slow"):
            time.sleep(0.04)
        if os.path.exists("fatal") and os.environ.get("SLURM_PROCID") == "1":
            os.kill(os.getpid(), 9)
        return self.points[index], int(self.points[index].norm() > 2.6)


def points(split="train"):
    return Points()


def network(num_classes=2):
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
"""
CONFIG = """
model: {name: "rings:network"}
data: {name: "rings:points", loader_workers: 0}
batch: {global_batch_size: 32}
train: {epochs: 5, device: cpu}
checkpoint: {every_steps: 2}
comm: {timeout_s: 15}
"""


def read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def weights(run_dir: Path) -> str:
    return str(read_json(run_dir / "result.json")["weights_sha256"])


def newest_step(run_dir: Path) -> int:
    return max((int(one.name[5:]) for one in (run_dir / "checkpoints").glob("step_*")), default=0)


@contextlib.contextmanager
def local_weights(folder: Path, workers: int) -> Iterator[Callable[[], str]]:
    """What so many workers on this machine end with, who train beside the block."""
    place = folder / "local"
    place.mkdir()
    for name in ("rings.py", "config.yaml"):
        shutil.copy(folder / name, place)
    command = [*DISTTRAIN, "train", "config.yaml", "--run-dir", "run", "--workers", str(workers), "--quiet"]
    with subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True) as process:

        def end() -> str:
            error = process.communicate(timeout=240)[1]
            assert process.returncode == 0, error
            return weights(place / "run")

        try:
            yield end
        finally:
            process.kill()
