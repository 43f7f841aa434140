"""Signals to the agent: they are noted, and acted upon between two looks at the ranks.

torch's own handlers raise wherever the agent just is, also half-way through the start of a rank.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from disttrain.launch.stop import STOP_SIGNALS

NOTED = (*STOP_SIGNALS, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""The signals that the agent acts upon."""


class Interrupted(Exception):
    """A signal has come where the agent would otherwise wait on."""


class Signals:
    """The first signal to this process; those that follow change nothing any more."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._raises = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        if self._raises:
            raise Interrupted

    def listen(self) -> None:
        """Take the signals from now on, also where another handler has been put in place since."""
        for number in NOTED:
            signal.signal(number, self._note)

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Afterwards the handlers that were there before."""
        before = {number: signal.getsignal(number) for number in NOTED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Within it a signal, also one that came before, raises Interrupted: for waits that look at no flag."""
        self._raises = True
        try:
            if self.received is not None:
                raise Interrupted
            yield
        finally:
            self._raises = False
