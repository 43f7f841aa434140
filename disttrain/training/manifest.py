"""`manifest.json`: what a reader in a year wants to know about how a result came about."""

from __future__ import annotations

import json
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import disttrain
from disttrain.files import write_json
from disttrain.launch.env import RankEnv
from disttrain.run_dir import MANIFEST
from disttrain.training.prepare import Prepared


def record_start(
    run_dir: Path, prepared: Prepared, env: RankEnv, device: torch.device, first_step: int
) -> list[dict[str, Any]]:
    """Add this start to the manifest; returns all starts so far."""
    start = {
        "time": time.time(),
        "first_step": first_step,
        "world_size": env.world_size,
        "restart_count": env.restart_count,
        "slurm_restart_count": env.requeues,
        "launcher": env.launcher,
        "job": env.job_id,
        "data": prepared.data_identity,
        "host": socket.gethostname(),
        "device": device_name(device),
        "git_commit": _git_commit(),
        "versions": {
            "disttrain": disttrain.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "command": sys.argv,
    }
    starts = [*_earlier_starts(run_dir), start]
    write_json(
        run_dir / MANIFEST, {"data_fingerprint": prepared.data_identity["fingerprint"], **start, "starts": starts}
    )
    return starts


def was_started_by(run_dir: Path, job_id: str) -> bool:
    """Whether the run in the folder is one that this job has begun, before it lost a rank."""
    starts = _earlier_starts(run_dir)
    return bool(job_id and starts) and starts[-1].get("job") == job_id


def _earlier_starts(run_dir: Path) -> list[dict[str, Any]]:
    try:
        starts: list[dict[str, Any]] = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))["starts"]
    except (OSError, ValueError, KeyError):
        return []
    return starts


def device_name(device: torch.device) -> str:
    """`cuda: NVIDIA H100`, `cpu: x86_64`."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {platform.processor() or platform.machine()}"


def _git_commit() -> str | None:
    """The commit of the working directory, where the user keeps configs and code under git."""
    command = ["git", "-C", str(Path.cwd()), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
