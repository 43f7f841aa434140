"""A wait of more than a few seconds says what it waits for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from disttrain.errors import say

SOON_S = 5.0
"""After so many seconds a user would like to know."""


@contextlib.contextmanager
def announced(what: str, after_s: float = SOON_S) -> Iterator[None]:
    """Within it a wait that blocks this thread; after some seconds of it, `what` is on standard error."""
    timer = threading.Timer(after_s, say, (what,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
