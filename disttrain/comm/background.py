"""Exchanges that go on beside the backward pass: in a thread on the CPU, on a stream of their own on a GPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import torch

Work = Callable[[], None]


class Background:
    """Runs what it is given in the order in which it is given. Errors are raised by `wait`."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._is_done = threading.Event()
        self._error: BaseException | None = None
        if self._stream is None:
            # A daemon: where a peer is lost, the wait for it must not keep this process from ending.
            threading.Thread(target=self._run, name="gradient-exchange", daemon=True).start()

    def submit(self, work: Work) -> None:
        """To be done soon, behind what was submitted before and what the current stream has been given."""
        if self._stream is None:
            self._queue.put(work)
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()

    def wait(self) -> None:
        """Return once all is done (on a GPU: the current stream waits for it). Raises what the work raised."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
            return
        self._is_done.clear()
        self._queue.put(self._is_done.set)
        self._is_done.wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread once it has nothing to do."""
        self._queue.put(None)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                if self._error is None or work == self._is_done.set:
                    work()
            except BaseException as error:
                self._error = error
