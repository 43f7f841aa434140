"""What happens to trials goes from Ray into the journal, before Tune goes on."""

from __future__ import annotations

import time
from typing import Any

from ray.tune import Callback, Stopper

from disttrain.tune.history import FAILED, STOPPED, Trial
from disttrain.tune.ray_trial import ENDED, EPOCH, INTERRUPTED, OF, VALUE
from disttrain.tune.search import Search
from disttrain.tune.trial_config import TRIALS
from disttrain.tune.watchers import Watchers


class Watch(Callback):
    """Writes the journal. It holds nothing that is not in there."""

    def __init__(self, search: Search, watchers: Watchers) -> None:
        self._search, self._watchers = search, watchers
        self.running: set[str] = set()
        self._written_at = time.monotonic()

    def _trial(self, ray_trial: Any) -> Trial:
        return self._search.history.trials[int(ray_trial.trial_id)]

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """See Callback."""
        self._watchers.interrupts.take_signals()  # Tune takes SIGUSR1, whatever it is told, and ends without a word

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See Callback."""
        self.running.add(trial.trial_id)
        ours = self._trial(trial)
        self._search.record("begin", trial=ours.number, attempt=ours.attempt + 1)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """See Callback."""
        if not result[EPOCH]:  # an end, not a report
            return
        if result[OF] != trial.config["task"].run_dirs[0]:  # the trial has become a copy since, and the report is noted
            return
        ours = self._trial(trial)
        self._note_folder(ours, result)
        self._search.report(ours, result[EPOCH], result[VALUE])
        trial.config["task"].after_epoch = result[EPOCH]  # should its worker be lost

    def _note_folder(self, ours: Trial, result: dict[str, Any]) -> None:
        """A trial that was moved, since a node that froze may still write in its folder, stays there."""
        first = result["folders"][0]
        name = first.rpartition("/")[2]
        if self._search.settings.seeds == 1 and name != (ours.folder or ours.name).rpartition("/")[2]:
            self._search.record("moved", trial=ours.number, folder=f"{TRIALS}/{name}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See Callback."""
        self.running.discard(trial.trial_id)
        ours, result = self._trial(trial), trial.last_result or {}
        state = result.get(ENDED, STOPPED)  # what the trial does not say itself is the scheduler's decision
        if state == INTERRUPTED:
            self._search.record("pause", trial=ours.number)
            return
        self._end(ours, state, result.get("exit_code"), result.get("reason", ""))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See Callback."""
        self.running.discard(trial.trial_id)
        if not self._search.ending_reason:
            last = next(reversed(str(trial.get_error() or "").strip().splitlines()), "")
            self._end(self._trial(trial), FAILED, None, f"its worker was lost {trial.num_failures} times: {last}"[:500])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See Callback."""
        self.running.discard(trial.trial_id)
        self._search.record("lost", trial=self._trial(trial).number)

    def _end(self, ours: Trial, state: str, exit_code: int | None, reason: str) -> None:
        self._search.end(ours, state, exit_code, reason)
        self._watchers.display.ended(self._search.history, ours)
        self._search.check_rules()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """See Callback."""
        running = {one.trial_id for one in trials if one.status == "RUNNING"}
        for one in trials:
            if one.status == "PAUSED" and one.trial_id in self.running:
                self._search.record("pause", trial=int(one.trial_id))
        self.running = running
        self._search.check_rules()
        self._watchers.display.refresh(self._search.history)
        if time.monotonic() - self._written_at > _OUTPUTS_S:
            self._watchers.write_outputs()
            self._written_at = time.monotonic()


_OUTPUTS_S = 30.0


class EndOfSearch(Stopper):
    """Ends Tune's loop once the trials that were asked to save and to leave have left, or have had the time for it."""

    def __init__(self, search: Search, watch: Watch, notice_s: float) -> None:
        self._search, self._watch, self._notice_s = search, watch, notice_s
        self._asked: float | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """See Stopper."""
        return False

    def stop_all(self) -> bool:
        """See Stopper."""
        if not self._search.ending_reason:
            return False
        if self._asked is None:
            self._asked = time.monotonic()
        return not self._watch.running or time.monotonic() - self._asked > self._notice_s
