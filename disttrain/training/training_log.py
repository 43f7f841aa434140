"""The lines of `metrics.jsonl` about training, and the table of step times."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from disttrain.comm.base import Comm, gather
from disttrain.comm.overlap import ExchangeTimes
from disttrain.log import log
from disttrain.loop import Position
from disttrain.optim.optimizer import Schedule
from disttrain.telemetry.phases import PhaseTimer
from disttrain.telemetry.step_time import (
    LINE_PHASES,
    StepDurations,
    find_slow_rank,
    own_seconds,
    render_step_times,
    step_milliseconds,
)
from disttrain.telemetry.tally import NOTHING, Sums, Tally, Totals
from disttrain.training.run_record import RunRecord


class TrainingLog:
    """Sums up over all ranks what the steps since the last line gave. Each method is called on every rank."""

    def __init__(
        self,
        record: RunRecord,
        comm: Comm,
        schedule: Schedule,
        phases: PhaseTimer,
        every_steps: int,
        first_step: int,
        total_steps: int,
    ) -> None:
        self._record, self._comm, self._schedule, self._phases = record, comm, schedule, phases
        self._every_steps, self._total_steps = every_steps, total_steps
        self._line_time = self._step_time = time.monotonic()
        self.durations = StepDurations()
        self.exchange: ExchangeTimes | None = None
        """Where set, lines have its times too."""
        self._unlogged_before = NOTHING
        """What went into the next line before the checkpoint that the run goes on from: sums over all ranks."""
        self._table_step = self._line_step = first_step
        self._line_seconds = phases.total_seconds()

    def log_step(self, position: Position, tally: Tally) -> None:
        """A line every so many steps, at the end of an epoch and at the end."""
        now, step = time.monotonic(), position.step
        self.durations.add(now - self._step_time)
        self._step_time = now
        due = step % self._every_steps == 0 or position.step_in_epoch == 0 or step == self._total_steps
        self._record.show(step, position.epoch, self._write_line(position, tally) if due else None)

    def _write_line(self, position: Position, tally: Tally) -> dict[str, Any]:
        sums = self._comm.all_reduce(tally.pop_sums()).tolist()
        trained = Totals.of(sums).samples
        loss_sum, correct, count = Totals.of(self._with_those_before(sums))
        self._unlogged_before = NOTHING
        now, seconds = time.monotonic(), self._phases.total_seconds()
        values = {
            "step": position.step,
            "epoch": position.epoch,
            "split": "train",
            "loss": loss_sum / count if count else None,
            "accuracy": correct / count if tally.classifies and count and correct is not None else None,
            "lr": self._schedule(position.step - 1),
            "grad_norm": None if tally.grad_norm is None else tally.grad_norm.item(),
            "samples_per_second": trained / (now - self._line_time),
            "step_ms": step_milliseconds(self._line_seconds, seconds, position.step - self._line_step),
            "step_percentiles_ms": self.durations.take(),
        }
        values |= {name: value for name, value in self._measured().items() if value is not None}
        self._line_time, self._line_step, self._line_seconds = now, position.step, seconds
        self._record.write(**values)
        return values

    def _measured(self) -> dict[str, dict[str, float] | None]:
        """What is measured of some steps only."""
        device = self._phases.on_device
        found = device.take() if device is not None else None
        parts = {phase: found.get(phase, 0.0) for phase in LINE_PHASES} if found is not None else None
        return {"device_step_ms": parts, "exchange_ms": self.exchange.take() if self.exchange is not None else None}

    def _with_those_before(self, sums: list[int]) -> Sums:
        return tuple(new + before for new, before in zip(sums, self._unlogged_before, strict=True))

    def unlogged(self, tally: Tally) -> Sums:
        """What the next line will sum up, so far: see `CheckpointValues.unlogged`."""
        return self._with_those_before(self._comm.all_reduce(tally.sums()).tolist())

    def resume(self, unlogged: Sums) -> None:
        """Go on from a checkpoint's `unlogged`."""
        self._unlogged_before = unlogged

    @contextlib.contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Within it time does not count for `samples_per_second`, nor for the time of a step."""
        began = time.monotonic()
        try:
            yield
        finally:
            stopped_s = time.monotonic() - began
            self._line_time += stopped_s
            self._step_time += stopped_s

    def show_step_times(self, position: Position) -> None:
        """At the end of an epoch: where the time of its steps went on each rank, and which rank is slow."""
        seconds = own_seconds(self._phases.take_seconds())
        if self._comm.world_size > 1:
            table = gather(self._comm, seconds)
            steps, self._table_step = position.step - self._table_step, position.step
            level = logging.INFO if find_slow_rank(table) else logging.DEBUG  # the ranks' own files have them all
            log.log(level, "%s", render_step_times(table, steps, position.epoch - 1))
