"""What happens around the steps of a run: lines in the log, evaluations, checkpoints, a reason to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from disttrain.checkpoint import Snapshot, save_checkpoint
from disttrain.comm.ddp import DdpComm
from disttrain.config import Config
from disttrain.evaluate import Evaluation
from disttrain.logs import log
from disttrain.loop import Position
from disttrain.metrics import MetricsFile, Tally
from disttrain.optim import Schedule
from disttrain.preemption import StopRequest
from disttrain.progress import Progress
from disttrain.rundir import CHECKPOINTS, METRICS, STATUS


class RunHooks:
    """The hooks of `run.py`. Files and terminal belong to rank zero; what needs all ranks is called on all."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        position: Position,
        comm: DdpComm,
        schedule: Schedule,
        total_steps: int,
        quiet: bool,
        evaluate_val: Callable[[], Evaluation] | None,
        capture_state: Callable[[], Snapshot | None],
        stop_request: StopRequest,
    ) -> None:
        self.config, self.comm, self.schedule, self.total_steps = config, comm, schedule, total_steps
        self.evaluate_val, self.capture_state = evaluate_val, capture_state
        self._checkpoints = run_dir / CHECKPOINTS
        self._metrics: MetricsFile | None = None
        self._progress: Progress | None = None
        if comm.rank == 0:
            self._metrics = MetricsFile(run_dir / METRICS, position.step)
            self._progress = Progress(run_dir / STATUS, total_steps, position.step, quiet)
        self._line_time = time.monotonic()
        self._stop_request, self.stopping = stop_request, False

    def log(self, position: Position, tally: Tally) -> None:
        """A line in `metrics.jsonl` every so many steps, at the end of an epoch and at the end."""
        step = position.step
        due = step % self.config.train.log_every_steps == 0 or position.step_in_epoch == 0 or step == self.total_steps
        values = None
        if due:
            # One reduction for both: the sums of the line, and how many ranks have been asked to stop.
            asked = torch.tensor([float(bool(self._stop_request))], dtype=torch.float64, device=self.comm.device)
            loss_sum, correct, count, asked_count = self.comm.all_reduce(torch.cat([tally.take(), asked])).tolist()
            self.stopping = asked_count > 0
            now = time.monotonic()
            values = {
                "step": step,
                "epoch": position.epoch,
                "split": "train",
                "loss": loss_sum / count,
                "accuracy": correct / count if tally.classifies else None,
                "lr": self.schedule(step - 1),
                "grad_norm": None if tally.grad_norm is None else tally.grad_norm.item(),
                "samples_per_second": count / (now - self._line_time),
            }
            self._line_time = now
            tally.grad_norm = None
            if self._metrics is not None:
                self._metrics.write(**values)
        if self._progress is not None:
            self._progress.update(step, position.epoch, values)

    def evaluate(self, position: Position) -> None:
        """The validation split at the end of an epoch, where there is one and the config wants it."""
        every = self.config.train.eval_every_epochs
        if self.evaluate_val is None or not every or position.epoch % every:
            return
        began = time.monotonic()
        result = self.evaluate_val()
        self._line_time += time.monotonic() - began
        if self._metrics is not None:
            values = {"step": position.step, "epoch": position.epoch, "split": "val"}
            self._metrics.write(**values, loss=result.loss, accuracy=result.accuracy)
        accuracy = "" if result.accuracy is None else f", accuracy {result.accuracy:.2%}"
        log.info("epoch %d: validation loss %.4f%s", position.epoch, result.loss, accuracy)

    def save(self, position: Position) -> None:
        """A checkpoint every so many steps (or every epoch), and at the end."""
        every = self.config.checkpoint.every_steps
        due = position.step % every == 0 if every else position.step_in_epoch == 0
        if not (due or self.stopping or position.step == self.total_steps):
            return
        began = time.monotonic()
        snapshot = self.capture_state()
        if snapshot is not None:
            try:
                save_checkpoint(self._checkpoints, position.step, snapshot, self.config.checkpoint.keep)
            except OSError as error:  # training is worth more than one checkpoint: the last good one stands
                log.warning("the checkpoint of step %d was not written: %s", position.step, error)
        if self.stopping:
            self.comm.barrier()  # no rank leaves, and takes the job with it, before the checkpoint is on disk
        self._line_time += time.monotonic() - began

    def should_stop(self, position: Position) -> bool:
        """Whether the ranks have agreed to stop, in the reduction of the last line."""
        return self.stopping

    def close(self, state: str, position: Position) -> None:
        """The last state, and the files closed."""
        if self._progress is not None:
            self._progress.status(state, position.step)
            self._progress.close()
        if self._metrics is not None:
            self._metrics.close()
