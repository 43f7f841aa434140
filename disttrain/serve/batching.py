"""Images of requests that arrive together, computed together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

M = TypeVar("M")


class QueueFull(Exception):
    """There are as many images as may wait: try again in a moment."""


@dataclass
class _Job(Generic[M]):
    model: M
    images: np.ndarray
    """[n, channels, height, width]"""
    result: Future[np.ndarray] = field(default_factory=Future)


class Batcher(Generic[M]):
    """A queue of images before one model, emptied by a thread in batches.

    An image waits for others only while some are on their way (`announce`), and not beyond `max_wait_s`: a client that
    is alone does not wait. A batch holds images of one model.
    """

    def __init__(
        self,
        compute: Callable[[M, np.ndarray], np.ndarray],
        max_batch_size: int,
        max_wait_s: float,
        max_images: int,
        on_batch: Callable[[int], None] = lambda images: None,
    ) -> None:
        """
        Args:
            compute: images [n, ...] of at most `max_batch_size` -> results [n, ...].
            max_images: that are admitted and not released.
            on_batch: told the size of every batch.
        """
        self._compute, self._max_batch, self._max_wait_s = compute, max_batch_size, max_wait_s
        self._max_images, self._on_batch = max_images, on_batch
        self._jobs: deque[_Job[M]] = deque()
        self._queued = self._admitted = self._announced = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def admitted(self) -> int:
        """Images that are admitted and not released."""
        return self._admitted

    @property
    def is_alive(self) -> bool:
        """Whether its thread is there."""
        return self._thread.is_alive()

    def admit(self, images: int) -> None:
        """Take a place for so many images, until `release`. Raises QueueFull."""
        with self._changed:
            if self._admitted + images > self._max_images:
                raise QueueFull(f"{self._admitted} images wait, and {self._max_images} may.")
            self._admitted += images

    def release(self, images: int) -> None:
        """Give the places of `admit` back."""
        with self._changed:
            self._admitted -= images

    def announce(self) -> None:
        """Images are on their way: they are submitted, or not, before `arrived`."""
        with self._changed:
            self._announced += 1

    def arrived(self) -> None:
        """The end of what `announce` has begun."""
        with self._changed:
            self._announced -= 1
            if not self._announced:
                self._changed.notify()

    def submit(self, model: M, images: np.ndarray) -> Future[np.ndarray]:
        """Queue images [n, ...] for `model`; the future has their results, in order. Cancelled ones may be left out."""
        job = _Job(model, images)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._jobs.append(job)
            self._queued += len(images)
            if len(self._jobs) == 1 or self._queued >= self._max_batch or not self._announced:
                self._changed.notify()
        return job.result

    def close(self) -> None:
        """Compute what is queued, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (jobs := self._next()) is not None:
            self._work(jobs)

    def _next(self) -> list[_Job[M]] | None:
        """Jobs of one model, some at least; None at the end."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return None
                self._changed.wait()
            until = time.monotonic() + self._max_wait_s
            while self._queued < self._max_batch and self._announced and not self._closed:
                if (left_s := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left_s)
            jobs = [self._jobs.popleft()]
            count = len(jobs[0].images)
            while self._jobs and self._jobs[0].model is jobs[0].model:
                if count + len(self._jobs[0].images) > self._max_batch:
                    break
                jobs.append(self._jobs.popleft())
                count += len(jobs[-1].images)
            self._queued -= count
        return jobs

    def _work(self, jobs: list[_Job[M]]) -> None:
        jobs = [job for job in jobs if job.result.set_running_or_notify_cancel()]
        if not jobs:
            return
        try:
            images = np.concatenate([job.images for job in jobs])
            parts = []
            for at in range(0, len(images), self._max_batch):
                batch = images[at : at + self._max_batch]
                parts.append(self._compute(jobs[0].model, batch))
                self._on_batch(len(batch))
            results = np.concatenate(parts)
        except Exception as error:  # of a network: the requests of this batch have it, and the thread goes on
            for job in jobs:
                job.result.set_exception(error)
            return
        at = 0
        for job in jobs:
            job.result.set_result(results[at : at + len(job.images)])
            at += len(job.images)
