"""Calls to a store that may be cut off: it answers late then, or never, and the agent has ranks to look after."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError

T = TypeVar("T")


class _Call(Generic[T]):
    """One call in a thread of its own, which nobody has to wait for."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rendezvous call", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value.append(self._work())
        except BaseException as error:
            self._error = error

    def is_done(self, within_s: float = 0.0) -> bool:
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value[0]


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises. Raises RendezvousConnectionError where it takes longer."""
    call = _Call(work)
    if not call.is_done(seconds):
        raise RendezvousConnectionError(f"the rendezvous has not answered within {seconds:g} s")
    return call.result()


class Poll(Generic[T]):
    """A call repeated again and again, without waiting for it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._call: _Call[T] | None = None

    def __call__(self, patience_s: float = 0.05) -> T | None:
        """A fresh answer, or None as long as there is none. Raises what the call raised."""
        if self._call is None:
            self._call = _Call(self._work)
        if not self._call.is_done(patience_s):
            return None
        call, self._call = self._call, None
        return call.result()
