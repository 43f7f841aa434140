"""Traces of torch's profiler over a few steps, for Perfetto."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from disttrain.log import log


class StepProfile:
    """Records the steps from the first to the last of `steps`, both included, into one file of this rank."""

    def __init__(self, path: Path, steps: Sequence[int] | None, first_step: int) -> None:
        """`first_step`: where this start goes on; steps before it are not recorded again. `path` ends with .json.gz."""
        self._path = path
        self._steps = range(steps[0], steps[1] + 1) if steps is not None else range(0)
        self._recorded: torch.profiler.profile | None = None
        self.after_step(first_step)

    def after_step(self, step: int) -> None:
        """Begin before the first of the steps, end after the last. To be called after each step."""
        if self._recorded is None and step + 1 in self._steps:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._recorded = torch.profiler.profile(activities=activities)
            self._recorded.start()
        elif self._recorded is not None and step + 1 not in self._steps:
            self.close()

    def close(self) -> None:
        """Write what has been recorded. A disk that does not take it costs the trace, not the run."""
        recorded, self._recorded = self._recorded, None
        if recorded is None:
            return
        recorded.stop()
        try:
            self._path.parent.mkdir(exist_ok=True)
            recorded.export_chrome_trace(str(self._path))
        except (OSError, RuntimeError) as error:
            log.warning("the trace %s cannot be written: %s", self._path, error)
            return
        log.info("the trace of the profiler is in %s: open it at https://ui.perfetto.dev", self._path)
