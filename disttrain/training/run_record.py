"""What rank zero writes and shows of a run: `metrics.jsonl`, `status.json` and the progress bar."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from disttrain.run_dir import METRICS, STATUS
from disttrain.telemetry.metrics_file import MetricsFile
from disttrain.telemetry.progress import Progress
from disttrain.telemetry.trackers.base import Trackers
from disttrain.training.machine_watch import MachineWatch


class RunRecord:
    """Made on every rank, with the same calls on each; the other ranks write nothing."""

    def __init__(
        self,
        run_dir: Path,
        rank: int,
        first_step: int,
        total_steps: int,
        quiet: bool,
        machine: MachineWatch | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        """Open for the steps after `first_step`."""
        self._machine, self._trackers = machine, trackers
        self._metrics = MetricsFile(run_dir / METRICS, first_step) if rank == 0 else None
        self._progress = Progress(run_dir / STATUS, total_steps, first_step, quiet) if rank == 0 else None

    def write(self, **values: Any) -> None:
        """Append a line to `metrics.jsonl`."""
        if self._metrics is not None:
            self._write_machine_lines(self._metrics)
            self._write_line(self._metrics, values)

    def _write_line(self, metrics: MetricsFile, values: Mapping[str, Any]) -> None:
        line = {"time": round(time.time(), 3), **values}
        metrics.write(**line)
        if self._trackers is not None:
            self._trackers.log(line)

    def _write_machine_lines(self, metrics: MetricsFile) -> None:
        for line in self._machine.pop_lines() if self._machine is not None else ():
            self._write_line(metrics, line)

    def show(self, step: int, epoch: int, values: dict[str, Any] | None) -> None:
        """Move the progress on; `values` are those of a metrics line, where one was due."""
        if self._progress is not None:
            self._progress.update(step, epoch, values)

    def close(self, state: str, step: int, result: Mapping[str, Any]) -> None:
        """Write the last `state` into `status.json`, tell the trackers the `result` (empty without one) and close the
        files. Raises OSError where lines are left."""
        if self._progress is not None:
            self._progress.status(state, step)
            self._progress.close()
        if self._metrics is not None:
            self._write_machine_lines(self._metrics)
        if self._trackers is not None:
            self._trackers.close(state, result)
        if self._metrics is not None:
            self._metrics.close()

    def join(self) -> None:
        """Wait until the trackers know all of a run that has finished, once no other rank waits for this one."""
        if self._trackers is not None:
            self._trackers.join()
