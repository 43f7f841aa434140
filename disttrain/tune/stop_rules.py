"""When a search ends before all its trials have."""

from __future__ import annotations

from disttrain.tune.history import FINISHED, History, ended_since_best
from disttrain.tune.search_file import StopSettings


def reason_to_stop(rules: StopSettings, history: History, now: float) -> str:
    """Why the search ends now, for the user; empty while it goes on. `now`: as the journal's times, in seconds."""
    if rules.hours is not None and history.starts and now - history.starts[-1]["time"] >= rules.hours * 3600:
        return f"stop.hours={rules.hours:g} are over"
    if rules.target is not None:
        for trial in history.trials.values():
            if trial.state == FINISHED and trial.value is not None and not history.is_better(rules.target, trial.value):
                return f"trial {trial.name} has reached stop.target={rules.target:g} with {trial.value:.4g}"
    if rules.plateau_trials is not None and (since := ended_since_best(history)) >= rules.plateau_trials:
        return f"{since} trials have ended since the best one (stop.plateau_trials={rules.plateau_trials})"
    return ""
