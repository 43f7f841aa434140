"""What rank zero writes and shows of a run: `metrics.jsonl`, `status.json` and the progress bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from disttrain.run_dir import METRICS, STATUS
from disttrain.telemetry.metrics_file import MetricsFile
from disttrain.telemetry.progress import Progress


class RunRecord:
    """Made on every rank, with the same calls on each; the other ranks write nothing."""

    def __init__(self, run_dir: Path, rank: int, first_step: int, total_steps: int, quiet: bool) -> None:
        """Open for the steps after `first_step`."""
        self._metrics = MetricsFile(run_dir / METRICS, first_step) if rank == 0 else None
        self._progress = Progress(run_dir / STATUS, total_steps, first_step, quiet) if rank == 0 else None

    def write(self, **values: Any) -> None:
        """Append a line to `metrics.jsonl`."""
        if self._metrics is not None:
            self._metrics.write(**values)

    def show(self, step: int, epoch: int, values: dict[str, Any] | None) -> None:
        """Move the progress on; `values` are those of a metrics line, where one was due."""
        if self._progress is not None:
            self._progress.update(step, epoch, values)

    def close(self, state: str, step: int) -> None:
        """Write the last `state` into `status.json` and close the files. Raises OSError where lines are left."""
        if self._progress is not None:
            self._progress.status(state, step)
            self._progress.close()
        if self._metrics is not None:
            self._metrics.close()
