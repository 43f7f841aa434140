"""The validation split while training: when it is evaluated, and which evaluation is the best so far."""

from __future__ import annotations

from collections.abc import Callable

from disttrain.checkpoint import Score
from disttrain.log import log
from disttrain.loop import Position
from disttrain.training.evaluate import Evaluation, EvaluationInterrupted
from disttrain.training.preemption import StopAgreement
from disttrain.training.run_record import RunRecord


class Validation:
    """Called on every rank at the end of an epoch."""

    def __init__(
        self,
        evaluate: Callable[[], Evaluation] | None,
        every_epochs: int,
        best_by: str,
        stop: StopAgreement,
        record: RunRecord,
    ) -> None:
        """
        Args:
            evaluate: evaluates the validation split on all ranks; None where there is no such split. Raises
                EvaluationInterrupted where the ranks are to stop.
            every_epochs: epochs between two evaluations; 0 for none.
            best_by: `loss` or `accuracy`.
        """
        self._evaluate, self._every_epochs, self._best_by = evaluate, every_epochs, best_by
        self._stop, self._record = stop, record
        self._last: tuple[int, Score | None] = -1, None
        self._improved = False
        self.best: Score | None = None
        self.is_due = False
        """An evaluation has been cut short by a request to stop."""

    def __call__(self, position: Position) -> None:
        """Evaluate, where the config wants it after this epoch."""
        if self._evaluate is None or not self._every_epochs or position.epoch % self._every_epochs:
            return
        self.is_due = True
        try:
            result = self._evaluate()
        except EvaluationInterrupted:
            self._stop.is_agreed = True  # the ranks have agreed there; not to be asked again after some steps
            return
        self.is_due = False
        score = Score(result.loss, result.accuracy)
        self._record.write(
            step=position.step, epoch=position.epoch, split="val", loss=score.loss, accuracy=score.accuracy
        )
        accuracy = "" if result.accuracy is None else f", accuracy {result.accuracy:.2%}"
        loss = "not finite" if result.loss is None else f"{result.loss:.4f}"
        log.info("epoch %d: validation loss %s%s", position.epoch, loss, accuracy)
        self._last = position.step, score
        self._improved = self._is_better(score)
        if self._improved:
            self.best = score

    def _is_better(self, score: Score) -> bool:
        new, old = score.figure(self._best_by), None if self.best is None else self.best.figure(self._best_by)
        if new is None or old is None:
            return new is not None
        return new < old if self._best_by == "loss" else new > old

    def score_at(self, step: int) -> Score | None:
        """The figures of an evaluation after `step`, None where there was none."""
        last_step, score = self._last
        return score if last_step == step else None

    def pop_improved(self) -> bool:
        """Whether the last evaluation was the best so far; True once for each."""
        improved, self._improved = self._improved, False
        return improved
