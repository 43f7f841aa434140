"""What a search shows on the terminal while it runs."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from disttrain.errors import say
from disttrain.tune.history import ENDED, FAILED, FINISHED, RUNNING, STATES, STOPPED, History, Trial

_REFRESH_S = 1.0
_ROWS = 12


def render_table(history: History, budget: int, metric: str, now: float) -> list[str]:
    """The trials that run, counts by state, the best so far, and when it may all be over."""
    counts = ", ".join(f"{count} {state}" for state in STATES if (count := history.count(state)))
    lines = [
        f"trials: {len(history.trials)} of {budget} drawn: {counts or 'none'}; {history.epochs_spent} epochs trained"
    ]
    if (best := history.best) is not None:
        lines.append(
            f"best: trial {best.name}, {metric} {_figure(best.value)} after epoch {best.epoch}  {_values(best)}"
        )
    if (left_s := seconds_left(history, budget, now)) is not None:
        lines.append(f"time: {_duration(now - history.starts[-1]['time'])} so far, about {_duration(left_s)} to go")
    running = [one for one in history.trials.values() if one.state == RUNNING]
    for trial in running[:_ROWS]:
        lines.append(f"  {trial.name}  epoch {trial.epoch:3d}  {metric} {_figure(trial.value):>8}  {_values(trial)}")
    if len(running) > _ROWS:
        lines.append(f"  and {len(running) - _ROWS} more")
    return lines


def seconds_left(history: History, budget: int, now: float) -> float | None:
    """A guess from the trials that have ended since the last start; None before there are any."""
    if not history.starts:
        return None
    began = history.starts[-1]["time"]
    ended = sum(one.state in ENDED and (one.ended or 0.0) >= began for one in history.trials.values())
    left = budget - sum(one.state in ENDED for one in history.trials.values())
    return (now - began) / ended * left if ended else None


def render_end(history: History, trial: Trial, metric: str) -> str:
    """A line for a trial that has just ended."""
    if trial.state == FAILED:
        code = "" if trial.exit_code is None else f" (exit code {trial.exit_code})"
        return f"trial {trial.name} failed{code}: {trial.reason}"
    what = {FINISHED: "has finished", STOPPED: f"stopped after epoch {trial.epoch}"}[trial.state]
    best = history.best
    beside = "the best so far" if best is trial else f"best {_figure(best.value)}" if best is not None else ""
    return f"trial {trial.name} {what}: {metric} {_figure(trial.value)} ({beside})  {_values(trial)}"


class Display:
    """The table, drawn again in its place on a terminal; elsewhere a line for each trial that ends."""

    def __init__(self, metric: str, budget: int, quiet: bool) -> None:
        self._metric, self._budget, self._quiet = metric, budget, quiet
        self._is_terminal = _is_terminal()
        self._drawn, self._drawn_at = 0, 0.0

    def ended(self, history: History, trial: Trial) -> None:
        """A trial has ended."""
        if not self._quiet:
            self._erase()
            say(render_end(history, trial, self._metric))

    def refresh(self, history: History) -> None:
        """Draw the table, where there is a terminal and a while has passed."""
        if self._quiet or not self._is_terminal or time.monotonic() - self._drawn_at < _REFRESH_S:
            return
        self._erase()
        lines = render_table(history, self._budget, self._metric, time.time())
        with contextlib.suppress(OSError):
            sys.stderr.write("".join(f"{line[:160]}\n" for line in lines))
            sys.stderr.flush()
        self._drawn, self._drawn_at = len(lines), time.monotonic()

    def _erase(self) -> None:
        if self._drawn:
            with contextlib.suppress(OSError):
                sys.stderr.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def close(self) -> None:
        """Leave the terminal as it is found."""
        self._erase()


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (ValueError, AttributeError):  # closed, or replaced
        return False


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _values(trial: Trial) -> str:
    return " ".join(f"{field.partition('.')[2]}={_short(value)}" for field, value in trial.values.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{rest} s" if not minutes else f"{minutes // 60}:{minutes % 60:02d} h" if minutes > 99 else f"{minutes} min"
