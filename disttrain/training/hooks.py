"""What happens around the steps of a run: lines in the log, evaluations, checkpoints, a reason to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from disttrain.checkpoint import CheckpointWriter
from disttrain.comm.base import Comm, gather
from disttrain.config import Config
from disttrain.log import log
from disttrain.loop import Position
from disttrain.optim.optimizer import Schedule
from disttrain.run_dir import METRICS, STATUS
from disttrain.telemetry.metrics_file import MetricsFile
from disttrain.telemetry.phases import SAVING, PhaseTimer
from disttrain.telemetry.progress import Progress
from disttrain.telemetry.step_time import find_slow_rank, own_seconds, render_step_times
from disttrain.telemetry.tally import Tally
from disttrain.training.evaluate import Evaluation, EvaluationInterrupted
from disttrain.training.preemption import StopAgreement


@dataclass(frozen=True)
class Actions:
    """What the hooks cause to be done. Each is called on every rank."""

    evaluate_val: Callable[[], Evaluation] | None
    """None where there is no validation split. Raises EvaluationInterrupted where the ranks are to stop."""
    shard: Callable[[], tuple[dict[str, torch.Tensor], dict[str, Any]]]
    """What this rank writes into a checkpoint: its tensors, and the plain values."""
    check_weights: Callable[[], None]
    """Raises IntegrityError where the ranks' weights differ."""


class RunHooks:
    """The hooks of `run.py`. Files and terminal belong to rank zero; what needs all ranks is called on all."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        position: Position,
        comm: Comm,
        schedule: Schedule,
        total_steps: int,
        quiet: bool,
        actions: Actions,
        writer: CheckpointWriter,
        agreement: StopAgreement,
        phases: PhaseTimer,
    ) -> None:
        self.config, self.comm, self.schedule, self.total_steps = config, comm, schedule, total_steps
        self._actions, self._writer, self._agreement, self._phases = actions, writer, agreement, phases
        self._metrics: MetricsFile | None = None
        self._progress: Progress | None = None
        if comm.rank == 0:
            self._metrics = MetricsFile(run_dir / METRICS, position.step)
            self._progress = Progress(run_dir / STATUS, total_steps, position.step, quiet)
        self._line_time = time.monotonic()
        self._unlogged_before = [0.0] * 3
        """What went into the next line before the checkpoint that the run goes on from: sums over all ranks."""
        self._table_step = position.step
        self._validated: tuple[int, dict[str, float | None]] = -1, {}
        self._best: dict[str, float | None] | None = None
        self._improved = self._evaluation_due = False

    def log(self, position: Position, tally: Tally) -> None:
        """A line in `metrics.jsonl` every so many steps, at the end of an epoch and at the end."""
        self._phases.enter("logging", position.step)
        step = position.step
        due = step % self.config.train.log_every_steps == 0 or position.step_in_epoch == 0 or step == self.total_steps
        values = self._line(position, tally) if due else None
        if self._progress is not None:
            self._progress.update(step, position.epoch, values)
        every = self.config.train.check_weights_every_steps
        if every and step % every == 0:
            self._actions.check_weights()

    def _line(self, position: Position, tally: Tally) -> dict[str, Any]:
        sums = self.comm.all_reduce(tally.pop_sums()).tolist()
        trained = sums[2]
        loss_sum, correct, count = (new + before for new, before in zip(sums, self._unlogged_before, strict=True))
        self._unlogged_before = [0.0] * 3
        now = time.monotonic()
        values = {
            "step": position.step,
            "epoch": position.epoch,
            "split": "train",
            "loss": loss_sum / count if count else None,
            "accuracy": correct / count if tally.classifies and count else None,
            "lr": self.schedule(position.step - 1),
            "grad_norm": None if tally.grad_norm is None else tally.grad_norm.item(),
            "samples_per_second": trained / (now - self._line_time),
        }
        self._line_time = now
        if self._metrics is not None:
            self._metrics.write(**values)
        return values

    def evaluate(self, position: Position) -> None:
        """At the end of an epoch: the table of step times, and the validation split where the config wants it."""
        self._phases.enter("evaluating")
        self._show_step_times(position)
        every = self.config.train.eval_every_epochs
        evaluate_val = self._actions.evaluate_val
        if evaluate_val is None or not every or position.epoch % every:
            return
        began = time.monotonic()
        self._evaluation_due = True
        try:
            result = evaluate_val()
        except EvaluationInterrupted:
            self._agreement.is_agreed = True  # the ranks have agreed there; not to be asked again after some steps
            return
        finally:
            self._line_time += time.monotonic() - began
        self._evaluation_due = False
        if self._metrics is not None:
            values = {"step": position.step, "epoch": position.epoch, "split": "val"}
            self._metrics.write(**values, loss=result.loss, accuracy=result.accuracy)
        accuracy = "" if result.accuracy is None else f", accuracy {result.accuracy:.2%}"
        log.info("epoch %d: validation loss %.4f%s", position.epoch, result.loss, accuracy)
        self._validated = position.step, {"loss": result.loss, "accuracy": result.accuracy}
        self._improved = self._is_better(self._validated[1])
        if self._improved:
            self._best = self._validated[1]

    def _is_better(self, figures: dict[str, float | None]) -> bool:
        name = self.config.checkpoint.best
        new, old = figures[name], (self._best or {}).get(name)
        if new is None or old is None:
            return new is not None
        return new < old if name == "loss" else new > old

    def _show_step_times(self, position: Position) -> None:
        seconds = own_seconds(self._phases.take_seconds())
        if self.comm.world_size > 1:
            table = gather(self.comm, seconds)
            steps, self._table_step = position.step - self._table_step, position.step
            level = logging.INFO if find_slow_rank(table) else logging.DEBUG  # the ranks' own files have them all
            log.log(level, "%s", render_step_times(table, steps, position.epoch - 1))

    def should_stop(self, position: Position) -> bool:
        """Whether the ranks agree that one of them has been asked to stop."""
        return self._agreement()

    def save(self, position: Position, tally: Tally) -> None:
        """A checkpoint every so many steps (or every epoch), where validation was best, and at the end."""
        every, is_end = self.config.checkpoint.every_steps, position.step == self.total_steps
        due = position.step % every == 0 if every else position.step_in_epoch == 0
        is_last = is_end or self._agreement.is_agreed
        if not (due or self._improved or is_last):
            return
        began = time.monotonic()
        with self._phases.during(SAVING):
            if is_end or not is_last or self._notice_suffices(position):
                self._actions.check_weights()
                tensors, values = self._actions.shard()
                self._writer.save(position.step, tensors, values | self._figures(position, tally))
            if is_last:
                self._writer.wait()  # no rank leaves, and takes the job with it, before the checkpoint is on disk
        self._improved = False
        self._line_time += time.monotonic() - began

    def _notice_suffices(self, position: Position) -> bool:
        save_s, notice_s = self._writer.last_save_s, self.config.checkpoint.notice_s
        if self._agreement.fits(save_s, notice_s):
            return True
        log.warning(
            "asked to stop, and no checkpoint of step %d is begun: the last save took %.1f s, which does not fit into "
            "what is left of checkpoint.notice_s=%g. The checkpoint before stands.",
            position.step, save_s, notice_s,
        )  # fmt: skip
        return False

    def _figures(self, position: Position, tally: Tally) -> dict[str, Any]:
        """What a checkpoint says beside the state of the training: about validation, and for the next line."""
        step, figures = self._validated
        sums = self.comm.all_reduce(tally.sums()).tolist()
        return {
            "unlogged": [new + before for new, before in zip(sums, self._unlogged_before, strict=True)],
            "validation": figures if step == position.step else None,
            "best": self._best,
            "evaluation_due": self._evaluation_due,
        }

    def resume(self, position: Position, values: dict[str, Any]) -> None:
        """Go on from the figures of a checkpoint, with the evaluation that a request to stop has cut short."""
        self._best = values.get("best")
        self._unlogged_before = values.get("unlogged", self._unlogged_before)
        if values.get("evaluation_due"):
            self.evaluate(position)

    def close(self, state: str, position: Position) -> None:
        """The last state, and the files closed."""
        if self._progress is not None:
            self._progress.status(state, position.step)
            self._progress.close()
        if self._metrics is not None:
            self._metrics.close()
