"""Being asked to stop: a signal sets a flag, and the ranks act on it together at the end of a step."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import torch

from disttrain.comm.base import Comm, gather
from disttrain.launch.stop import STOP_SIGNALS

_ASK_EVERY_S = 1.0


class StopRequest:
    """Whether this rank has been asked to stop, and since when. Further signals change nothing."""

    def __init__(self) -> None:
        self.signal_name = ""
        self._received = 0.0

    def __bool__(self) -> bool:
        return bool(self.signal_name)

    @property
    def age_s(self) -> float:
        """Seconds since the first signal; 0 before."""
        return time.monotonic() - self._received if self.signal_name else 0.0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.signal_name:
            self._received = time.monotonic()
            self.signal_name = signal.Signals(number).name

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within it the signals set the flag instead of ending the process. Only a main thread can listen."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class StopAgreement:
    """Finds out together with the other ranks whether any of them has been asked to stop.

    That takes a reduction of two numbers. It is done about once a second: the ranks measure how many calls that is,
    and since all compute it from the same all-reduced sum, they ask again at the same call.
    """

    def __init__(self, request: StopRequest, comm: Comm) -> None:
        self._request, self._comm = request, comm
        self._calls = self._asked_at = 0
        self._ask_after, self._asked_time = 1, time.monotonic()
        self.is_agreed = False

    def __call__(self) -> bool:
        """To be called equally often on every rank: after each step, say. The same answer on all."""
        self._calls += 1
        if self._comm.world_size == 1:
            self.is_agreed = bool(self._request)
        elif self._calls - self._asked_at >= self._ask_after and not self.is_agreed:
            now = time.monotonic()
            mine = [float(bool(self._request)), now - self._asked_time]
            values = torch.tensor(mine, dtype=torch.float64, device=self._comm.device)
            asked, seconds = self._comm.all_reduce(values).tolist()
            calls = self._calls - self._asked_at
            calls_per_second = calls * self._comm.world_size / max(seconds, 1e-9)
            self._ask_after = max(1, min(int(_ASK_EVERY_S * calls_per_second), 2 * calls))
            self._asked_at, self._asked_time = self._calls, now
            self.is_agreed = asked > 0
        return self.is_agreed

    def fits(self, save_s: float | None, notice_s: float) -> bool:
        """Whether a save that takes `save_s` seconds (None: not known yet) ends before the time of notice is over, on
        the rank that was asked first. The same answer on all ranks."""
        table = gather(self._comm, [self._request.age_s, save_s or 0.0])
        age_s, save_s = table.max(0).values.tolist()
        return age_s + save_s <= notice_s
