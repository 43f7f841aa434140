"""Whole trainings from the shipped configs, on 2 workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 2400  # on two cores that others use as well a whole training may take a quarter of an hour


def disttrain(*arguments: str | Path) -> str:
    """Standard output of a command that succeeds."""
    command = [sys.executable, "-m", "disttrain", *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train(config: str, data: Path, run_dir: Path) -> dict[str, Any]:
    """`result.json` of a whole training of `configs/CONFIG.yaml`."""
    arguments: list[str | Path] = [
        f"configs/{config}.yaml",
        "--workers",
        "2",
        "--run-dir",
        run_dir,
        "--json",
        f"data.path={data}",
    ]
    result: dict[str, Any] = json.loads(disttrain("train", *arguments))
    return result
