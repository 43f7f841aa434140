"""Which phase of a step a rank is in, since when, and how much time each phase took."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from disttrain.telemetry.device_phases import DevicePhases

WAITING, SAVING = "allreduce", "saving"
PHASES = ("starting", "data", "forward", "backward", WAITING, "optimizer", "logging", "evaluating", SAVING)
"""What a rank can be doing. Within a step they come in this order, so that of two ranks in the same step the one in
the earlier phase lags. `allreduce` is any wait for the other ranks."""


class Phase(NamedTuple):
    """A phase that has begun."""

    step: int
    phase: str
    since: float
    """`time.monotonic()` of this rank's host, in seconds."""


class PhaseTimer:
    """Written by the training thread, read by the heartbeat thread. A change costs less than a microsecond."""

    def __init__(self) -> None:
        self.current = Phase(0, PHASES[0], time.monotonic())
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._taken: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.on_device: DevicePhases | None = None
        """Is told of every phase too, where the device has a clock of its own."""

    def enter(self, phase: str, step: int | None = None) -> None:
        """A new phase begins, by default within the same step."""
        now = time.monotonic()
        before = self.current
        self._seconds[before.phase] += now - before.since
        self.current = Phase(before.step if step is None else step, phase, now)
        if self.on_device is not None:
            self.on_device.enter(phase, self.current.step)

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """A phase within another, which goes on afterwards."""
        before = self.current.phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def total_seconds(self) -> dict[str, float]:
        """Seconds spent in each phase so far."""
        self.enter(self.current.phase)
        return {phase: self._seconds[phase] for phase in PHASES}

    def take_seconds(self) -> dict[str, float]:
        """Seconds spent in each phase since the last call."""
        before, self._taken = self._taken, self.total_seconds()
        return {phase: total - before[phase] for phase, total in self._taken.items()}
