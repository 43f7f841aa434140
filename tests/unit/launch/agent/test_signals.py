"""Signals to the agent: the first is noted, and interrupts only where the agent waits."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from disttrain.launch.agent.signals import Interrupted, Signals


@pytest.fixture
def signals() -> Iterator[Signals]:
    noted = Signals()
    with noted.restored():
        noted.listen()
        yield noted


def test_the_first_signal_stays(signals: Signals) -> None:
    assert signals.received is None
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.raise_signal(number)
    assert signals.received == signal.SIGUSR1


def test_a_signal_ends_a_wait_that_looks_at_no_flag(signals: Signals) -> None:
    alarm = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
    alarm.start()
    began = time.monotonic()
    with pytest.raises(Interrupted), signals.raising():
        time.sleep(60)
    assert time.monotonic() - began < 30
    alarm.join()


def test_a_signal_that_came_before_the_wait_ends_it_too(signals: Signals) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted), signals.raising():
        pytest.fail("it must not begin")


def test_the_handlers_from_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    noted = Signals()
    with noted.restored():
        noted.listen()
        assert signal.getsignal(signal.SIGUSR2) != before
    assert signal.getsignal(signal.SIGUSR2) == before
