"""What the journal says, trial by trial."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from disttrain.tune.journal import Event

WAITING, RUNNING, FINISHED, STOPPED, FAILED = STATES = ("waiting", "running", "finished", "stopped", "failed")
ENDED = (FINISHED, STOPPED, FAILED)


class Report(NamedTuple):
    """What a trial reported after an evaluation; `value` is the mean over its seeds."""

    epoch: int
    value: float
    time: float


@dataclass
class Trial:
    """One point of the space, and what became of it."""

    number: int
    values: dict[str, Any]
    """By field of the config."""
    start: int
    """Which of the journal's `start` events the rest of its config comes from."""
    state: str = WAITING
    reports: list[Report] = field(default_factory=list)
    epoch: int = 0
    """The last epoch that it reported, or has gone on from."""
    began: float | None = None
    ended: float | None = None
    attempt: int = 0
    """How often it was begun, the times that it went on included."""
    folder: str = ""
    """Where it trains now, within the search's folder; empty for its usual place."""
    exit_code: int | None = None
    reason: str = ""
    parent: int | None = None
    """The trial whose weights it has last gone on with (population-based training)."""
    replaced: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """Values that it had before a copy gave it others, each with how many reports there had been by then."""
    checkpoint: str = ""
    """Of that trial: what it has gone on from, within the search's folder."""

    @property
    def value(self) -> float | None:
        """Its last report."""
        return self.reports[-1].value if self.reports else None

    def values_at(self, report: int) -> dict[str, Any]:
        """Those with which report number `report`, from 0 on, was reached."""
        return next((values for count, values in self.replaced if report < count), self.values)

    @property
    def name(self) -> str:
        """Of its folder."""
        return trial_name(self.number)


def trial_name(number: int) -> str:
    """`0007`."""
    return f"{number:04d}"


@dataclass
class History:
    """Everything that is known about a search."""

    maximize: bool = True
    starts: list[Event] = field(default_factory=list)
    """The `start` events: one for the search itself and one for each time that it was resumed."""
    trials: dict[int, Trial] = field(default_factory=dict)
    last_time: float = 0.0
    epochs_spent: int = 0
    best_curve: list[tuple[float, int, float]] = field(default_factory=list)
    """Time, epochs spent in all trials, value: whenever a report was better than all before."""

    def apply(self, event: Event) -> None:
        """Take one more event into account. What a later version may write beside them is passed over."""
        handler = getattr(self, f"_on_{event['event']}", None)
        self.last_time = max(self.last_time, event.get("time", 0.0))
        if handler is not None:
            handler(event)

    def _on_start(self, event: Event) -> None:
        self.starts.append(event)
        self.maximize = bool(event["maximize"])
        for trial in self.trials.values():  # whoever ran them is gone
            if trial.state == RUNNING:
                trial.state = WAITING

    def _on_point(self, event: Event) -> None:
        number = int(event["trial"])
        self.trials[number] = Trial(number, dict(event["values"]), len(self.starts) - 1)

    def _on_begin(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        trial.state, trial.attempt = RUNNING, int(event["attempt"])
        trial.began = event["time"] if trial.began is None else trial.began

    def _on_pause(self, event: Event) -> None:
        self.trials[event["trial"]].state = WAITING

    def _on_moved(self, event: Event) -> None:
        self.trials[event["trial"]].folder = str(event["folder"])

    def _on_report(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        before, trial.epoch = trial.epoch, int(event["epoch"])
        trial.reports.append(Report(trial.epoch, float(event["value"]), event["time"]))
        self.epochs_spent += max(0, trial.epoch - before)
        best = self.best_curve[-1][2] if self.best_curve else None
        if best is None or self.is_better(event["value"], best):
            self.best_curve.append((event["time"], self.epochs_spent, event["value"]))

    def _on_copy(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        trial.replaced.append((len(trial.reports), trial.values))
        trial.values, trial.parent, trial.epoch = dict(event["values"]), int(event["parent"]), int(event["epoch"])
        trial.folder, trial.checkpoint = event["folder"], event["checkpoint"]

    def _on_end(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        trial.state, trial.ended = event["state"], event["time"]
        trial.exit_code, trial.reason = event.get("exit_code"), event.get("reason", "")

    def is_better(self, one: float, other: float) -> bool:
        """Whether `one` is the better value of the two."""
        return one > other if self.maximize else one < other

    @property
    def best(self) -> Trial | None:
        """The trial whose model is the best: of those that have trained to their end, if any has."""
        with_value = [one for one in self.trials.values() if one.value is not None and one.state != FAILED]
        finished = [one for one in with_value if one.state == FINISHED]
        order = sorted(finished or with_value, key=lambda one: one.number)
        sign = 1 if self.maximize else -1
        return max(order, key=lambda one: sign * (one.value or 0.0), default=None)

    @property
    def open_trials(self) -> list[Trial]:
        """Those that have not ended, in the order in which they were drawn."""
        return [one for one in self.trials.values() if one.state not in ENDED]

    def count(self, state: str) -> int:
        """How many trials are in a state."""
        return sum(one.state == state for one in self.trials.values())


def history_of(events: Iterable[Event]) -> History:
    """The history that these events make."""
    history = History()
    for event in events:
        history.apply(event)
    return history


def ended_since_best(history: History) -> int:
    """How many trials have ended after the end of the best one; 0 while there is none."""
    ended: Sequence[Trial] = sorted(
        (one for one in history.trials.values() if one.state in ENDED), key=lambda one: one.ended or 0.0
    )
    best = history.best
    return len(ended) - 1 - ended.index(best) if best in ended else 0
