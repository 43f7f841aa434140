"""What a tracker has to do, and how a training tells several of them without waiting for any."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from disttrain.log import log

_MOST_WAITING = 10_000  # lines; of a tracker that hangs, what comes later is lost to it
_POLL_S = 0.2
_FINISH_S = 60.0
_LEAVE_S = 2.0  # where the run has not finished: its ranks have to leave in time


class RunInfo(NamedTuple):
    """The run that is told of."""

    run_dir: Path
    name: str
    project: str
    config: Mapping[str, str]
    """`section.field` -> text."""


class Tracker(Protocol):
    """One run in one tracker. Any exception ends the telling, never the training."""

    name: str

    def log(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """Figures of a step; `time` in seconds since 1970."""

    def close(self, state: str, result: Mapping[str, float]) -> None:
        """The last call: `finished`, `stopped` or `failed`, and the figures of the result."""


class Trackers:
    """Hands lines of `metrics.jsonl` to all trackers, to each in a thread of its own: none waits for another."""

    def __init__(self, makers: Mapping[str, Callable[[], Tracker]]) -> None:
        """`makers`: by name what opens each tracker. It is called in the tracker's thread: a server that does not
        answer delays its own figures alone."""
        self._tellers = [_Teller(name, make) for name, make in makers.items()]

    def log(self, line: Mapping[str, Any]) -> None:
        """A line of `metrics.jsonl`. Returns at once."""
        for teller in self._tellers:
            teller.put(dict(line))

    def close(self, state: str, result: Mapping[str, Any]) -> None:
        """No line comes any more. Of a run that has finished, `join` waits for what is left; of another one at most two
        seconds are waited here, since its ranks have to leave in time."""
        for teller in self._tellers:
            teller.end(state, flattened(result))
        if state != "finished":
            self._wait(_LEAVE_S)

    def join(self) -> None:
        """Wait, at most a minute, until all is told. To be called where no other rank waits for this one."""
        self._wait(_FINISH_S)

    def _wait(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        for teller in self._tellers:
            teller.join(deadline)


class _Teller:
    """One tracker and the thread that talks to it."""

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self._name, self._make = name, make
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue(_MOST_WAITING)
        self._end: tuple[str, Mapping[str, float]] = "failed", {}
        self._is_ending = threading.Event()
        self._has_overflowed = False
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, line: dict[str, Any]) -> None:
        """A line, if the tracker still listens."""
        if not self._thread.is_alive():
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            if not self._has_overflowed:
                log.warning("%s does not keep up: it is not told of all lines. metrics.jsonl has them.", self._name)
            self._has_overflowed = True

    def end(self, state: str, result: Mapping[str, float]) -> None:
        """No line comes any more."""
        self._end = state, result
        self._is_ending.set()

    def join(self, deadline: float) -> None:
        """Wait until all is told, or until `time.monotonic()` is so late."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            log.warning(
                "%s hangs and is left behind: it may lack the last figures. metrics.jsonl has them.", self._name
            )

    def _run(self) -> None:
        try:
            tracker = self._make()
        except ImportError as error:
            log.warning("%s is not told: %s. pip install 'disttrain[%s]'", self._name, error, self._name)
            return
        except Exception as error:
            log.warning("%s is not told: %s: %s", self._name, type(error).__name__, _first_line(error))
            return
        try:
            while (line := self._next()) is not None:
                tracker.log(*figures(line))
            tracker.close(*self._end)
        except Exception as error:
            log.warning("%s is told no more: %s: %s", self._name, type(error).__name__, _first_line(error))

    def _next(self) -> dict[str, Any] | None:
        """The next line; None once there is none, and none comes."""
        while True:
            is_ending = self._is_ending.is_set()  # before the look: what was put before the end is told
            try:
                return self._lines.get(timeout=0.0 if is_ending else _POLL_S)
            except queue.Empty:
                if is_ending:
                    return None


def figures(line: Mapping[str, Any]) -> tuple[int, float, dict[str, float]]:
    """(step, time, name -> number): names are `train/loss`, `val/accuracy`, `telemetry/0/gpu_power_w` with the rank."""
    split = str(line["split"])
    prefix = f"{split}/{line['rank']}" if "rank" in line else split
    rest = {key: value for key, value in line.items() if key not in ("time", "step", "split", "rank")}
    return int(line["step"]), float(line["time"]), flattened(rest, prefix)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in nested mappings, their names joined by `/`."""
    found: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            found |= flattened(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
