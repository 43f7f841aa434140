"""The schedulers' decisions are those of their rule, in a search that was resumed too."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from disttrain.tune.history import History
from disttrain.tune.search_file import build_search
from disttrain.tune.space import Space

pytest.importorskip("ray.tune", reason="Ray is not installed: pip install 'disttrain[tune]'")

from disttrain.tune.ray_schedulers import build_scheduler
from disttrain.tune.ray_trial import EPOCH, VALUE

EPOCHS = 27


def scheduler_of(search: Any, history: History) -> Any:
    def on_copy(*_: Any) -> Any:
        raise AssertionError

    return build_scheduler(search, EPOCHS, history, Space({}), on_copy)


def settings(**scheduler: Any) -> Any:
    return build_search({"space": {"optim.lr": {"uniform": [0.1, 0.2]}}, "scheduler": scheduler})


def learning_curve(number: int) -> list[float]:
    draw = random.Random(number)
    best, speed = draw.uniform(0.6, 0.99), draw.uniform(0.05, 1.0)
    return [best * (1 - math.exp(-speed * epoch)) + draw.gauss(0, 0.01) for epoch in range(1, EPOCHS + 1)]


class StoppingRule:
    """Asynchronous successive halving as it is described, in its stopping form."""

    def __init__(self, grace: int, factor: int) -> None:
        self.factor = factor
        self.rungs: dict[int, dict[int, float]] = {}
        while grace <= EPOCHS:
            self.rungs[grace] = {}
            grace *= factor

    def stops(self, number: int, epoch: int, value: float) -> bool:
        if (rung := self.rungs.get(epoch)) is None:
            return False
        before = list(rung.values())
        rung[number] = value
        return bool(before and value < np.percentile(before, 100 * (1 - 1 / self.factor)))


def run(
    trial_count: int, slots: int, resume_every: int = 0
) -> tuple[list[tuple[int, int, str]], list[tuple[int, int, str]]]:
    """The decisions of Ray's scheduler, made anew from the history every so many reports, and those of the rule."""
    search, history = settings(name="asha", grace_epochs=1, reduction_factor=3), History()
    scheduler, rule = scheduler_of(search, history), StoppingRule(1, 3)
    running: dict[int, Any] = {}
    decided: list[tuple[int, int, str]] = []
    expected: list[tuple[int, int, str]] = []
    draw, waiting, reports = random.Random(5), list(range(trial_count)), 0
    while waiting or running:
        while waiting and len(running) < slots:
            number = waiting.pop(0)
            running[number] = SimpleNamespace(trial_id=f"{number:04d}")
            history.apply({"event": "point", "time": 0.0, "trial": number, "values": {}})
            scheduler.on_trial_add(None, running[number])
        number = draw.choice(list(running))
        epoch = history.trials[number].epoch + 1
        value = learning_curve(number)[epoch - 1]
        decision = scheduler.on_trial_result(None, running[number], {EPOCH: epoch, VALUE: value})
        history.apply({"event": "report", "time": float(reports), "trial": number, "epoch": epoch, "value": value})
        decided.append((number, epoch, str(decision)))
        expected.append((number, epoch, "STOP" if rule.stops(number, epoch, value) else "CONTINUE"))
        reports += 1
        if decision == "STOP" or epoch == EPOCHS:
            scheduler.on_trial_complete(None, running.pop(number), {EPOCH: epoch, VALUE: value})
        if resume_every and reports % resume_every == 0:
            scheduler = scheduler_of(search, history)
            for one in running.values():
                scheduler.on_trial_add(None, one)
    return decided, expected


def test_asha_stops_by_its_rule() -> None:
    decided, expected = run(40, 4)
    assert decided == expected
    assert 20 < sum(one[2] == "STOP" for one in decided) < 40


def test_asha_decides_the_same_in_a_search_that_was_resumed() -> None:
    assert run(40, 4, resume_every=7)[0] == run(40, 4)[0]


def test_a_trial_has_the_same_bracket_in_every_start() -> None:
    def brackets() -> list[int]:
        scheduler = scheduler_of(settings(name="asha", brackets=3), History())
        for number in range(30):
            scheduler.on_trial_add(None, SimpleNamespace(trial_id=f"{number:04d}"))
        return [scheduler._brackets.index(scheduler._trial_info[f"{number:04d}"]) for number in range(30)]

    before = str(np.random.get_state())
    assert brackets() == brackets()
    assert len(set(brackets())) == 3
    assert str(np.random.get_state()) == before


def test_median_stopping_counts_the_trials_of_before() -> None:
    history = History()
    for number, value in enumerate([0.8, 0.81, 0.82, 0.83]):
        history.apply({"event": "point", "time": 0.0, "trial": number, "values": {}})
        for epoch in (1, 2, 3):
            history.apply({"event": "report", "time": 1.0, "trial": number, "epoch": epoch, "value": value})
        history.apply({"event": "end", "time": 2.0, "trial": number, "state": "finished"})
    scheduler = scheduler_of(settings(name="median"), history)
    for name, value, expected in (("0004", 0.5, "STOP"), ("0005", 0.9, "CONTINUE")):
        trial = SimpleHash(name)
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {EPOCH: 2, VALUE: value}) == expected


class SimpleHash:
    """A trial as the rule needs it: with a name, and a key of a mapping."""

    def __init__(self, name: str) -> None:
        self.trial_id = name
