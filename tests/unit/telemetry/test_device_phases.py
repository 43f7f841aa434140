"""Phases by a device's own clock: here one that runs behind its host, as a GPU does."""

from __future__ import annotations

from collections import deque

import pytest

from disttrain.telemetry.device_phases import EVERY_STEPS, DevicePhases
from disttrain.telemetry.phases import PhaseTimer


class Device:
    """A queue of work, done in its order; its clock is what the work has taken."""

    def __init__(self) -> None:
        self.queue: deque[float | DeviceEvent] = deque()
        self.clock = 0.0

    def catch_up(self) -> None:
        while self.queue:
            work = self.queue.popleft()
            if isinstance(work, DeviceEvent):
                work.moment = self.clock
            else:
                self.clock += work


class DeviceEvent:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.moment: float | None = None

    def record(self) -> None:
        self.device.queue.append(self)

    def query(self) -> bool:
        return self.moment is not None

    def elapsed_time(self, later: DeviceEvent, /) -> float:
        assert self.moment is not None
        assert later.moment is not None
        return later.moment - self.moment


def run_steps(phases: PhaseTimer, device: Device, steps: range) -> None:
    """As the loop and its hooks enter phases; the work of a step is its phases' number of letters, in ms."""
    for step in steps:
        phases.enter("data", step)
        for _ in range(2):
            for phase in ("forward", "backward", "allreduce", "data"):
                phases.enter(phase)
                device.queue.append(float(len(phase)))
        phases.enter("optimizer")
        device.queue.append(9.0)
        phases.enter("logging", step + 1)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def phases(device: Device) -> PhaseTimer:
    timer = PhaseTimer()
    timer.on_device = DevicePhases(lambda: DeviceEvent(device))
    return timer


def test_a_step_is_what_its_work_took_on_the_device(phases: PhaseTimer, device: Device) -> None:
    on_device = phases.on_device
    assert on_device is not None
    run_steps(phases, device, range(3 * EVERY_STEPS + 1))
    assert on_device.take() is None  # the device has done nothing yet
    device.catch_up()
    parts = on_device.take()
    assert parts == {"data": 8, "forward": 14, "backward": 16, "allreduce": 18, "optimizer": 9, "logging": 0}
    assert on_device.take() is None


def test_only_every_tenth_step_has_events(phases: PhaseTimer, device: Device) -> None:
    run_steps(phases, device, range(1, EVERY_STEPS - 1))
    assert not [one for one in device.queue if isinstance(one, DeviceEvent)]


def test_a_device_that_does_not_come_on_costs_no_memory_without_end(phases: PhaseTimer, device: Device) -> None:
    run_steps(phases, device, range(200 * EVERY_STEPS))
    kept = len([one for one in device.queue if isinstance(one, DeviceEvent)])
    device.queue.clear()
    run_steps(phases, device, range(200 * EVERY_STEPS, 220 * EVERY_STEPS))
    assert kept
    assert not [one for one in device.queue if isinstance(one, DeviceEvent)]
