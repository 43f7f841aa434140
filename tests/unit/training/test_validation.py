from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from disttrain.checkpoint import Score
from disttrain.loop import Position
from disttrain.training.evaluate import Evaluation, EvaluationInterrupted
from disttrain.training.preemption import StopAgreement, StopRequest
from disttrain.training.run_record import RunRecord
from disttrain.training.validation import Validation


class OneRank:
    rank, world_size, device = 0, 1, torch.device("cpu")


class Evaluations:
    """Hands out results, one a call."""

    def __init__(self, *losses: float | None) -> None:
        self.losses = list(losses)

    def __call__(self) -> Evaluation:
        loss = self.losses.pop(0)
        if loss is None:
            raise EvaluationInterrupted
        return Evaluation(4, loss, np.array([[2, 1], [0, 1]]), ("a", "b"))


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return RunRecord(tmp_path, 0, 0, 10, quiet=True)


def validation(record: RunRecord, evaluate: Any, every_epochs: int = 1) -> tuple[Validation, StopAgreement]:
    stop = StopAgreement(StopRequest(), OneRank())  # type: ignore[arg-type]
    return Validation(evaluate, every_epochs, "loss", stop, record), stop


def test_each_evaluation_that_is_the_best_so_far_is_told_once(record: RunRecord, tmp_path: Path) -> None:
    validate, _ = validation(record, Evaluations(0.5, 0.75, 0.25))
    improved = []
    for epoch in (1, 2, 3):
        validate(Position(10 * epoch, epoch, 0))
        improved += [validate.pop_improved(), validate.pop_improved()]
    assert improved == [True, False, False, False, True, False]
    assert validate.best == validate.score_at(30) == Score(0.25, 0.75)
    assert validate.score_at(31) is None
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(one["step"], one["split"], one["loss"]) for one in lines] == [
        (10, "val", 0.5), (20, "val", 0.75), (30, "val", 0.25),
    ]  # fmt: skip


def test_a_run_goes_on_from_the_best_of_its_checkpoint(record: RunRecord) -> None:
    validate, _ = validation(record, Evaluations(0.5))
    validate.best = Score(0.25)
    validate(Position(10, 1, 0))
    assert not validate.pop_improved()
    assert validate.best == Score(0.25)


def test_an_evaluation_that_is_cut_short_is_due_and_the_ranks_have_agreed_to_stop(record: RunRecord) -> None:
    validate, stop = validation(record, Evaluations(None, 0.5))
    validate(Position(10, 1, 0))
    assert (validate.is_due, stop.is_agreed, validate.best) == (True, True, None)
    validate(Position(10, 1, 0))
    assert not validate.is_due


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (1, [1, 2, 3, 4]), (2, [2, 4])])
def test_epochs_between_evaluations(record: RunRecord, every: int, epochs: list[int]) -> None:
    validate, _ = validation(record, Evaluations(*[0.5] * len(epochs)), every)
    evaluated = []
    for epoch in (1, 2, 3, 4):
        validate(Position(10 * epoch, epoch, 0))
        evaluated += [epoch] if validate.score_at(10 * epoch) else []
    assert evaluated == epochs


def test_without_a_validation_split_nothing_is_evaluated(record: RunRecord) -> None:
    validate, _ = validation(record, None)
    validate(Position(10, 1, 0))
    assert validate.score_at(10) is None
