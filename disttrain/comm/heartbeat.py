"""Heartbeats: each rank publishes its step and phase once a second, on a connection of its own.

The thread here does all that may block on the store. The watchdog reads only what it has cached.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, NamedTuple, cast

from torch.distributed import Store

from disttrain.comm.failures import FailureLog
from disttrain.system.processes import GONE, ProcessId, process_state
from disttrain.telemetry.phases import PhaseTimer

_PUBLISH_EVERY_S = 1.0
_CLOSE_S = 1.0
_STACK_FRAMES = 12


class Beat(NamedTuple):
    """One heartbeat of a rank."""

    number: int
    host: str
    process: list[str | int]
    """Its `ProcessId`."""
    step: int
    phase: str
    seconds: float
    """In this phase, when it was said."""
    stage: str
    """The stage at which it waits for the others; empty where it does not."""
    has_left: bool


@dataclass(frozen=True)
class Peer:
    """A rank as another one sees it."""

    rank: int
    beat: Beat
    heartbeat_age_s: float
    """Age of its last heartbeat, in seconds."""
    state: str | None
    """Of its process, where that is on the same machine: a letter as in /proc/PID/stat, `gone`; else None."""
    stack: str = ""

    @property
    def is_gone(self) -> bool:
        """Whether its process is no more, although the rank has not left."""
        return self.state == GONE and not self.beat.has_left

    @property
    def name(self) -> str:
        """`rank 1 on host (pid 4242)`."""
        return f"rank {self.rank} on {self.beat.host} (pid {self.beat.process[1]})"


class Heartbeat:
    """This rank's heartbeat, and what it sees of the others'. Threadsafe."""

    def __init__(self, store: Store, rank: int, world_size: int, hosted_by_rank_zero: bool, phases: PhaseTimer) -> None:
        """`store`: a connection of its own. The caller's thread is the one whose stack is shown."""
        self.store, self.rank, self.world_size, self._phases = store, rank, world_size, phases
        self._extended = cast(Any, store)  # with calls that torch's stubs do not know of
        self.hosted_by_rank_zero = hosted_by_rank_zero
        self.failure_log = FailureLog(store, world_size)
        self.stage, self.stage_since = "", 0.0
        """Where this rank waits for the others."""
        self.wanted = False
        """Whether the others' heartbeats are to be read, which costs the store something."""
        self.last_reply = time.monotonic()
        """When the store last gave an answer."""
        self.resumed_at = self.last_reply
        """Missing heartbeats from before do not count: this process itself was frozen then."""
        self.is_broken = False
        """The connection to the store is lost for good."""
        self.is_aborted = False
        """Some rank has posted why the job is to end at once."""
        self.read_count = 0
        """How often the others' heartbeats have been read."""
        # Whoever hosts the store takes its last heartbeats along when it freezes: they are read all the time.
        self._always = [0] if hosted_by_rank_zero and rank != 0 else []
        self._host, self._process, self._number = socket.gethostname(), ProcessId.own(), 0
        self._training_thread = threading.get_ident()
        self._seen: dict[int, tuple[Beat, float]] = {}
        self._stacks: dict[int, str] = {}
        self._lock = threading.Lock()
        self._stop, self._due = threading.Event(), threading.Event()
        self._publish()
        self._extended.append("heartbeat/came", f"{rank},")
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Say that this rank leaves, so that nobody takes it for lost. Waits no longer than a second."""
        self._stop.set()
        self._due.set()
        self._thread.join(_CLOSE_S)

    def refresh(self) -> None:
        """Read the others' heartbeats now, in the caller's thread. Raises DistError where the store is gone."""
        self._read(range(self.world_size))

    def peers(self) -> list[Peer]:
        """What is known of the others that have ever published a heartbeat, by rank."""
        now = time.monotonic()
        with self._lock:
            seen = dict(self._seen)
        return [
            Peer(
                rank,
                beat,
                now - max(changed, self.resumed_at),
                process_state(ProcessId(*beat.process)),  # type: ignore[arg-type]
                self._stacks.get(rank, ""),
            )
            for rank, (beat, changed) in sorted(seen.items())
        ]

    def own(self) -> Peer:
        """This rank as the others see it."""
        return Peer(self.rank, self._own_beat(), 0.0, None, render_stack(self._frame()))

    def with_stacks(self, peers: Iterable[Peer]) -> list[Peer]:
        """The same with the last stacks that they have published. Raises DistError where the store is gone."""
        return [replace(one, stack=self.store.get(f"stack/{one.rank}").decode()) for one in peers]

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._due.wait(_PUBLISH_EVERY_S)
                self._due.clear()
                if self._stop.is_set():
                    break
                self._publish()
                self._read(range(self.world_size) if self.wanted else self._always)
                self.is_aborted = self.is_aborted or self.failure_log.is_aborted()
                self.last_reply = time.monotonic()
            self._publish()
        except RuntimeError:  # DistError is one
            self.is_broken = True

    def _publish(self) -> None:
        self._number += 1
        values = [json.dumps(self._own_beat()), render_stack(self._frame())]
        self._extended.multi_set([f"heartbeat/{self.rank}", f"stack/{self.rank}"], values)

    def _own_beat(self) -> Beat:
        current = self._phases.current
        seconds = round(time.monotonic() - current.since, 1)
        process: list[str | int] = list(self._process)
        return Beat(
            self._number, self._host, process, current.step, current.phase, seconds, self.stage, self._stop.is_set()
        )

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._training_thread)

    def _read(self, wanted: Iterable[int]) -> None:
        if not wanted:
            return
        came = {int(one) for one in self.store.get("heartbeat/came").decode().split(",") if one}
        ranks = [rank for rank in wanted if rank in came and rank != self.rank]
        texts = self.store.multi_get([f"heartbeat/{rank}" for rank in ranks]) if ranks else []
        if self._always and 0 in ranks:
            self._stacks[0] = self.store.get("stack/0").decode()
        now = time.monotonic()
        with self._lock:
            for rank, text in zip(ranks, texts, strict=True):
                beat = Beat(*json.loads(text))
                if rank not in self._seen or self._seen[rank][0].number != beat.number:
                    self._seen[rank] = beat, now
            self.read_count += self.wanted


def render_stack(frame: FrameType | None) -> str:
    """`file:line function`, one frame a line, the innermost last. Reads no source file."""
    lines: list[str] = []
    while frame is not None and len(lines) < _STACK_FRAMES:
        lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return "\n".join(reversed(lines))
