"""A call to a store that may be cut off: it answers late then, or never, and the agent has ranks to look after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from disttrain.system.processes import BackgroundCall

T = TypeVar("T")


class Poll(Generic[T]):
    """A call repeated again and again, without waiting for it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._call: BackgroundCall[T] | None = None

    def __call__(self, patience_s: float = 0.05) -> T | None:
        """A fresh answer, or None as long as there is none. Raises what the call raised."""
        if self._call is None:
            self._call = BackgroundCall(self._work)
        if not self._call.is_done(patience_s):
            return None
        call, self._call = self._call, None
        return call.result()
