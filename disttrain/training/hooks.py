"""What follows each step of a run, in this order: the log, validation, a look for a request to stop, a checkpoint."""

from __future__ import annotations

from disttrain.checkpoint import CheckpointValues
from disttrain.loop import Position
from disttrain.telemetry.phases import SAVING, PhaseTimer
from disttrain.telemetry.tally import Tally
from disttrain.training.checkpointing import Checkpointing
from disttrain.training.integrity import WeightCheck
from disttrain.training.preemption import StopAgreement
from disttrain.training.profile import StepProfile
from disttrain.training.training_log import TrainingLog
from disttrain.training.validation import Validation


class RunHooks:
    """See `loop.Hooks`."""

    def __init__(
        self,
        training_log: TrainingLog,
        validation: Validation,
        checkpointing: Checkpointing,
        stop: StopAgreement,
        weight_check: WeightCheck,
        phases: PhaseTimer,
        profile: StepProfile,
    ) -> None:
        self.training_log, self.validation, self.checkpointing = training_log, validation, checkpointing
        self.stop, self.weight_check, self.phases = stop, weight_check, phases
        self.profile = profile

    def log(self, position: Position, tally: Tally) -> None:
        """A line, where one is due, and the comparison of the ranks' weights."""
        self.phases.enter("logging", position.step)
        self.profile.after_step(position.step)
        self.training_log.log_step(position, tally)
        if self.weight_check.is_due(position.step):
            self.weight_check(position.step)

    def evaluate(self, position: Position) -> None:
        """At the end of an epoch: the table of step times, and the validation split."""
        self.phases.enter("evaluating")
        self.training_log.show_step_times(position)
        with self.training_log.clock_stopped():
            self.validation(position)

    def should_stop(self, position: Position) -> bool:
        """Whether the ranks agree that one of them has been asked to stop."""
        return self.stop()

    def save(self, position: Position, tally: Tally) -> None:
        """A checkpoint, where one is due."""
        if self.checkpointing.is_due(position):
            with self.training_log.clock_stopped(), self.phases.during(SAVING):
                self.checkpointing.save(position, tally)

    def resume(self, position: Position, values: CheckpointValues) -> None:
        """Go on from the values of a checkpoint, with the evaluation that a request to stop has cut short."""
        self.validation.best = values.best
        self.training_log.resume(values.unlogged)
        if values.evaluation_due:
            self.evaluate(position)
