"""What a tracker has to do, and how a training tells several of them without waiting for any."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from disttrain.log import log

_MOST_WAITING = 10_000  # lines; of a tracker that hangs, what comes later is lost to it
_CLOSE_S = 10.0
_LEAVE_S = 1.0  # where the run has not finished: its ranks have to leave in time


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
    """Hands lines of `metrics.jsonl` to all trackers, in a thread of its own."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._live = list(trackers)
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="trackers", daemon=True)
        self._has_overflowed = False
        if self._live:
            self._thread.start()

    def log(self, line: Mapping[str, Any]) -> None:
        """A line of `metrics.jsonl`. Returns at once."""
        if not self._live:
            return
        try:
            self._lines.put_nowait(dict(line))
        except queue.Full:
            if not self._has_overflowed:
                log.warning("a tracker does not keep up: it is not told of all lines. metrics.jsonl has them.")
            self._has_overflowed = True

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            for tracker in list(self._live):
                self._attempt(tracker, lambda tracker=tracker, line=line: tracker.log(*figures(line)))

    def _attempt(self, tracker: Tracker, work: Any) -> None:
        try:
            work()
        except Exception as error:
            self._live.remove(tracker)
            log.warning("%s is told no more: %s: %s", tracker.name, type(error).__name__, _first_line(error))

    def close(self, state: str, result: Mapping[str, Any]) -> None:
        """Tell what is left. At most twenty seconds are waited for it, two where the run has not finished."""
        wait_s = _CLOSE_S if state == "finished" else _LEAVE_S
        if not self._thread.is_alive():
            return
        try:
            self._lines.put(None, timeout=wait_s)
        except queue.Full:
            return
        self._thread.join(wait_s)
        if self._thread.is_alive():
            log.warning("%s: a tracker hangs and is left behind.", ", ".join(one.name for one in self._live))
            return
        ended = threading.Thread(target=self._end, args=(state, flattened(result)), name="trackers", daemon=True)
        ended.start()
        ended.join(wait_s)

    def _end(self, state: str, result: Mapping[str, float]) -> None:
        for tracker in list(self._live):
            self._attempt(tracker, lambda tracker=tracker: tracker.close(state, result))


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
