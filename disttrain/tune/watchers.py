"""Who looks on while a search runs: the terminal, the signals to its driver, the files for people."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from disttrain.errors import say
from disttrain.tune.search import Search
from disttrain.tune.table import Display


class Interrupts:
    """Ctrl-C, SIGTERM, SIGUSR1 to a driver: the first brings the search to its end, a second Ctrl-C leaves at once."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, search: Search) -> None:
        self._search = search
        self.number: int | None = None
        """Of the first signal."""

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if number == signal.SIGINT:
                os._exit(128 + number)  # the kernel ends whatever this process has started
            return
        self.number = number
        name = signal.Signals(number).name
        again = " (Ctrl-C again leaves at once)" if number == signal.SIGINT else ""
        say(f"{name}: running trials save a checkpoint and leave{again}")
        self._search.bring_to_end(name)

    def take_signals(self) -> None:
        """Again, where somebody else has taken them over."""
        for one in self._SIGNALS:
            signal.signal(one, self._note)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within it the signals are taken."""
        before = {one: signal.getsignal(one) for one in self._SIGNALS}
        self.take_signals()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(frozen=True)
class Watchers:
    """All of them."""

    display: Display
    interrupts: Interrupts
    write_outputs: Callable[[], None]
    """Called once in a while."""
