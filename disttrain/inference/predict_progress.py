"""How far a prediction over many images is, and where its time goes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from disttrain.log import log

_LINE_EVERY_S, _BAR_EVERY_S = 10.0, 1.0


class PredictProgress:
    """Images done, images per second and the time to come, on standard error: shown by rank zero alone."""

    def __init__(self, total: int, done: int, count_done: Callable[[], int], shown: bool, on_terminal: bool) -> None:
        """`count_done`: the images that all ranks have done by now."""
        self._total, self._first, self._count_done, self._shown = total, done, count_done, shown
        self._began = self._told = time.monotonic()
        self._bar = tqdm(total=total, initial=done, unit="image", dynamic_ncols=True) if shown and on_terminal else None
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Within it this rank does a part of its work."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - began

    def update(self, in_hand: int) -> None:
        """Called after every batch; `in_hand`: images of this rank that no file has yet."""
        now = time.monotonic()
        if not self._shown or now - self._told < (_BAR_EVERY_S if self._bar is not None else _LINE_EVERY_S):
            return
        self._told = now
        done = self._count_done() + in_hand
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            return
        speed = (done - self._first) / (now - self._began)
        eta_s = (self._total - done) / speed if speed else 0.0
        log.info("%s of %s images  %.0f images/s  ETA %.0f s", f"{done:,}", f"{self._total:,}", speed, eta_s)

    def close(self) -> None:
        """Say where the time of this rank went."""
        if self._bar is not None:
            self._bar.update(self._count_done() - self._bar.n)
            self._bar.close()
        whole_s = time.monotonic() - self._began
        if self._shown and whole_s > _LINE_EVERY_S:
            parts = ", ".join(f"{part} {seconds / whole_s:.0%}" for part, seconds in self._seconds.items())
            log.info("%.1f s on rank 0: %s", whole_s, parts)


def is_on_terminal() -> bool:
    """Whether somebody sees a bar."""
    return sys.stderr is not None and sys.stderr.isatty()
