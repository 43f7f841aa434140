"""TensorBoard: event files in `tensorboard/` of the run directory."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from disttrain.telemetry.trackers.base import RunInfo


class TensorBoard:
    """`tensorboard --logdir RUN_DIR/tensorboard`, or of a folder with several runs."""

    name = "tensorboard"

    def __init__(self, info: RunInfo) -> None:
        """A run that goes on adds a file to the same folder, which TensorBoard shows as one run."""
        self._writer = SummaryWriter(str(info.run_dir / "tensorboard"), flush_secs=30)

    def log(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=time)

    def close(self, state: str, result: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name in ("test/loss", "test/accuracy"):
            if name in result:
                self._writer.add_scalar(name, result[name], int(result["step"]))
        self._writer.close()
