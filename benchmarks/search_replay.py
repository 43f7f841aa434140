"""Searches that are replayed over recorded learning curves, without a process. Part of search.py."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from disttrain.tune.history import History
from disttrain.tune.search_file import build_search
from disttrain.tune.space import Space

Curve = Mapping[str, Any]
"""`accuracy` and `seconds` of each epoch."""

_FACTOR = 3


@dataclass
class Place:
    """What runs in one place of a replayed search."""

    curve: Curve
    trial: Any
    epoch: int
    ready: float


def replay(curves: Sequence[Curve], slots: int, random_trials: int, seed: int) -> dict[str, float]:
    """One pair of searches over the same points in the same order: what random search finds with so many trials, and
    the epochs after which ASHA has it too (it goes on drawing where random search ends)."""
    order = list(curves)
    random.Random(seed).shuffle(order)
    epochs_each = len(order[0]["accuracy"])
    target = max(one["accuracy"][-1] for one in order[:random_trials])
    asha = _scheduler(epochs_each)
    running: list[Place] = []
    waiting, now, epochs, reached = list(order), 0.0, 0, 0
    while (waiting or running) and not reached:
        while waiting and len(running) < slots:
            curve, trial = waiting.pop(0), SimpleNamespace(trial_id=f"{len(order) - len(waiting):04d}")
            asha.on_trial_add(None, trial)
            running.append(Place(curve, trial, 0, now + curve["seconds"][0]))
        place = min(running, key=lambda one: one.ready)
        now, value = place.ready, place.curve["accuracy"][place.epoch]
        place.epoch, epochs = place.epoch + 1, epochs + 1
        reached = epochs if value >= target else 0
        decision = asha.on_trial_result(None, place.trial, {"epoch": place.epoch, "value": value})
        if decision == "STOP" or place.epoch == epochs_each:
            running.remove(place)
        else:
            place.ready = now + place.curve["seconds"][place.epoch]
    random_epochs = random_trials * epochs_each
    return {
        "target": target,
        "reached": float(bool(reached)),
        "asha_epochs": float(reached or epochs),
        "random_epochs": float(random_epochs),
        "ratio": (reached or epochs) / random_epochs,
    }


def _scheduler(epochs: int) -> Any:
    """ASHA as a search has it."""
    from disttrain.tune.ray_schedulers import build_scheduler

    search = build_search({"space": {"optim.lr": {"uniform": [0.1, 0.2]}}})

    def on_copy(*_: Any) -> Any:
        raise AssertionError

    return build_scheduler(search, epochs, History(), Space({}), on_copy)


def idle_of_synchronous(curves: Sequence[Curve], slots: int, seed: int) -> float:
    """The share of places that are idle in synchronous successive halving (HyperBand's most eager bracket, one after
    the other): all trials of a rung wait for each other, the best third goes on."""
    order = list(curves)
    random.Random(seed).shuffle(order)
    epochs, now, busy = len(order[0]["accuracy"]), 0.0, 0.0
    size = _FACTOR * _FACTOR
    for first in range(0, len(order) - size + 1, size):
        bracket, before, rung = order[first : first + size], 0, 1
        while bracket:
            free = [now] * slots
            for one in bracket:
                seconds = sum(one["seconds"][before:rung])
                at = free.index(min(free))
                free[at], busy = free[at] + seconds, busy + seconds
            now = max(free)
            best = sorted(bracket, key=lambda one: -one["accuracy"][rung - 1])
            bracket = best[: len(best) // _FACTOR] if rung < epochs else []
            before, rung = rung, min(rung * _FACTOR, epochs)
    return 1 - busy / (now * slots)
