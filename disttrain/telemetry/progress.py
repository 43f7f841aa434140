"""How far training is: a live bar on a terminal, plain lines elsewhere, and `status.json` for other programs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from disttrain.files import write_json
from disttrain.log import log

_LINE_EVERY_S = 10.0
_STATUS_EVERY_S = 1.0
_WARM_UP_STEPS, _GUESS_STEPS, _GUESS_S = 3, 10, 2.0  # the first steps of a run are slower than the others


class Progress:
    """Shown by rank zero alone."""

    def __init__(self, status_file: Path, total_steps: int, first_step: int, quiet: bool) -> None:
        self._status_file, self._total, self._first = status_file, total_steps, first_step
        self._began = self._last_line = time.monotonic()
        self._last_status = 0.0
        self._warm: tuple[int, float] | None = None
        self._has_guessed = False
        on_terminal = sys.stderr is not None and sys.stderr.isatty() and not quiet
        self._bar = (
            tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True) if on_terminal else None
        )
        self.status("training", first_step)

    def update(self, step: int, epoch: int, values: dict[str, Any] | None) -> None:
        """Called after every step; `values` are those of a metrics line, where one was due."""
        now = time.monotonic()
        if not self._has_guessed:
            self._guess(step, now)
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            if values:
                self._bar.set_postfix_str(_render(values), refresh=False)
        elif values and now - self._last_line > _LINE_EVERY_S:
            self._last_line = now
            log.info(
                "step %d/%d  epoch %d  %s  ETA %.0f s", step, self._total, epoch, _render(values), self._eta_s(step)
            )
        if now - self._last_status > _STATUS_EVERY_S:
            self.status("training", step)

    def _guess(self, step: int, now: float) -> None:
        """Say once how long it may take, from the steps after the first few."""
        if self._warm is None:
            self._warm = (step, now) if step - self._first >= _WARM_UP_STEPS else None
            return
        steps, seconds = step - self._warm[0], now - self._warm[1]
        if steps >= _GUESS_STEPS and seconds >= _GUESS_S:
            self._has_guessed = True
            left = self._total - step
            log.info(
                "expected time: about %s for the %s steps to go, at %s ms a step",
                duration(left * seconds / steps), f"{left:,}", _milliseconds(seconds / steps),
            )  # fmt: skip

    def _eta_s(self, step: int) -> float:
        done = step - self._first
        return (time.monotonic() - self._began) / done * (self._total - step) if done else 0.0

    def status(self, state: str, step: int) -> None:
        """Replace `status.json`."""
        self._last_status = time.monotonic()
        eta_s = round(self._eta_s(step), 1) if state == "training" else 0.0
        try:
            write_json(
                self._status_file,
                {"state": state, "step": step, "total_steps": self._total, "eta_s": eta_s, "updated": time.time()},
            )
        except OSError as error:  # training goes on without it
            log.debug("%s cannot be written: %s", self._status_file, error)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`, `2 days 4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f}" if seconds < 0.01 else f"{1000 * seconds:,.0f}"


def _render(values: dict[str, Any]) -> str:
    parts = ["no step counted" if values["loss"] is None else f"loss {values['loss']:.4f}"]
    if values.get("accuracy") is not None:
        parts.append(f"accuracy {values['accuracy']:.2%}")
    if values.get("samples_per_second"):
        parts.append(f"{values['samples_per_second']:,.0f} samples/s")
    return "  ".join(parts)
