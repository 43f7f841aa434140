"""When a run saves a checkpoint, and what it puts into one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from disttrain.checkpoint import CheckpointValues, CheckpointWriter
from disttrain.config.sections import CheckpointConfig
from disttrain.log import log
from disttrain.loop import Position
from disttrain.telemetry.tally import Tally
from disttrain.training.preemption import StopAgreement
from disttrain.training.training_log import TrainingLog
from disttrain.training.validation import Validation


class Checkpointing:
    """Called on every rank after each step."""

    def __init__(
        self,
        writer: CheckpointWriter,
        take_shard: Callable[[], tuple[dict[str, torch.Tensor], CheckpointValues]],
        training_log: TrainingLog,
        validation: Validation,
        stop: StopAgreement,
        config: CheckpointConfig,
        total_steps: int,
    ) -> None:
        """`take_shard`: the tensors that this rank writes, and the plain values. Raises IntegrityError where the ranks'
        weights differ."""
        self.writer, self.take_shard = writer, take_shard
        self._training_log, self._validation, self._stop = training_log, validation, stop
        self._config, self._total_steps = config, total_steps

    def is_due(self, position: Position) -> bool:
        """Every so many steps (or every epoch), where validation was best, and at the end. To be asked once a step."""
        improved, every = self._validation.pop_improved(), self._config.every_steps
        due = position.step % every == 0 if every else position.step_in_epoch == 0
        return due or improved or self._is_last(position)

    def _is_last(self, position: Position) -> bool:
        return position.step == self._total_steps or self._stop.is_agreed

    def save(self, position: Position, tally: Tally) -> None:
        """Save, unless a job that is asked to stop has no time for it. Waits for the disk at the end of a job only."""
        if position.step == self._total_steps or not self._stop.is_agreed or self._has_time(position.step):
            tensors, values = self.take_shard()
            values = dataclasses.replace(
                values,
                unlogged=self._training_log.unlogged(tally),
                validation=self._validation.score_at(position.step),
                best=self._validation.best,
                evaluation_due=self._validation.is_due,
            )
            self.writer.save(tensors, values)
        if self._is_last(position):
            self.writer.wait()  # no rank leaves, and takes the job with it, before the checkpoint is on disk

    def _has_time(self, step: int) -> bool:
        save_s, notice_s = self.writer.last_save_s, self._config.notice_s
        if self._stop.fits(save_s, notice_s):
            return True
        log.warning(
            "asked to stop, and no checkpoint of step %d is begun: the last save took %.1f s, which does not fit into "
            "what is left of checkpoint.notice_s=%g. The checkpoint before stands.",
            step, save_s, notice_s,
        )  # fmt: skip
        return False
