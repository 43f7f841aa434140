"""Weights & Biases: offline unless `WANDB_MODE` says otherwise, in `wandb/` of the run directory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

import wandb

from disttrain.files import write_atomically
from disttrain.telemetry.trackers.base import RunInfo

_ID_FILE = "wandb.txt"


class WeightsAndBiases:
    """One run of W&B; a run that goes on finds it by the id that lies in the run directory. `wandb sync` sends it."""

    name = "wandb"

    def __init__(self, info: RunInfo) -> None:
        path = info.run_dir / _ID_FILE
        run_id = path.read_text(encoding="utf-8").strip() if path.exists() else uuid.uuid4().hex[:12]
        write_atomically(path, run_id + "\n")
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=info.project, name=info.name, id=run_id, resume="allow", dir=str(info.run_dir),
            mode=mode, config=dict(info.config),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log({"step": step, **values})

    def close(self, state: str, result: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.summary.update(dict(result))
        self._run.finish(exit_code=0 if state == "finished" else 1)
