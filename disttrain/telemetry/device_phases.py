"""The phases of a step by the clock of the device: where a GPU's time goes, while the host runs ahead of it."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

import torch

EVERY_STEPS = 10
_MOST_WAITING = 100  # steps whose events the device has not reached; later ones are not timed


class Event(Protocol):
    """A moment on the device, as `torch.cuda.Event` has it."""

    def record(self) -> None:
        """It is when all that was asked for so far is done."""

    def query(self) -> bool:
        """Whether the device has come to it. Does not wait."""

    def elapsed_time(self, later: Any, /) -> float:
        """Milliseconds from this one to a later one."""


class DevicePhases:
    """Of every tenth step: an event on the device's stream where the host enters a phase. Nothing waits for them."""

    def __init__(self, make_event: Callable[[], Event]) -> None:
        self._make_event = make_event
        self._step = -1
        self._marks: list[tuple[str, Event]] = []
        self._waiting: list[list[tuple[str, Event]]] = []

    def enter(self, phase: str, step: int) -> None:
        """The host enters a phase of a step. A step that is timed ends where the first phase of another one begins."""
        if self._marks and step != self._step:
            self._add("")
            self._waiting.append(self._marks)
            self._marks = []
        is_new, self._step = step != self._step, step
        if self._marks or (is_new and step % EVERY_STEPS == 0 and len(self._waiting) < _MOST_WAITING):
            self._add(phase)

    def _add(self, phase: str) -> None:
        event = self._make_event()
        event.record()
        self._marks.append((phase, event))

    def take(self) -> dict[str, float] | None:
        """Milliseconds a step by phase, the mean of those timed steps that the device has come to the end of since the
        last call; None where there are none."""
        done = [marks for marks in self._waiting if marks[-1][1].query()]
        self._waiting = self._waiting[len(done) :]
        if not done:
            return None
        sums: defaultdict[str, float] = defaultdict(float)
        for marks in done:
            for (phase, event), (_, later) in itertools.pairwise(marks):
                sums[phase] += event.elapsed_time(later)
        return {phase: round(total / len(done), 4) for phase, total in sums.items()}


def phases_on(device: torch.device) -> DevicePhases | None:
    """For a GPU; a CPU has done what it is asked for when the host's clock says so."""
    return DevicePhases(lambda: torch.cuda.Event(enable_timing=True)) if device.type == "cuda" else None
