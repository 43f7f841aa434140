"""Ends a rank that waits in vain for the others, with a report of who holds them up.

The training thread sits in C++ then, and the store may be gone with the rank that hosted it. So one thread here only
watches the clock and what `Heartbeat` has cached; what may block is done beside it, within a limit.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import torch

from disttrain.comm import flight_recorder
from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.failures import Failure, render_failures
from disttrain.comm.hang_report import find_blocking_ranks, find_lost, render_hang, render_silent_store
from disttrain.comm.heartbeat import Heartbeat, Peer
from disttrain.comm.lost_peers import describe_missing, render_position
from disttrain.comm.rank_logging import write_to_rank_file
from disttrain.errors import PeerLostError
from disttrain.log import log
from disttrain.system.processes import run_with_timeout
from disttrain.telemetry.phases import SAVING, WAITING

T = TypeVar("T")

_TICK_S = 0.25
_READ_AFTER_S = 1.0  # of waiting: then the others' heartbeats are read
_NO_ANSWER_S = 3.0  # from the store, which else answers every second
_LEAVE_S = 20.0  # for the failure protocol and for closing, when the work has ended
_FROZEN_S = 3.0  # between two ticks
_WORK_S = 2.0  # for each thing that may block, on the way out
_REPORT_S = 12.0
# DDP reduces in `backward`, and a GPU's work is waited for where its results are first read.
_MAY_WAIT = frozenset({WAITING, "backward", "optimizer"})
_WAITS_ON_CPU = frozenset({WAITING})
_AGAIN = "Run the same command again to go on from the last checkpoint."


class Watchdog:
    """Watches one rank from the moment it has a control plane. With a single rank it does nothing."""

    def __init__(self, control_plane: ControlPlane, tell: Callable[[str], None]) -> None:
        """`tell` gives the user the report, on the one rank that does."""
        self._control_plane, self._tell = control_plane, tell
        self._stop = threading.Event()
        self._leaving_since: float | None = None
        self._gone: tuple[list[int], int] = [], 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        if self._control_plane.heartbeat is not None:
            run = threading.Thread(
                target=self._run, args=(self._control_plane.heartbeat,), name="watchdog", daemon=True
            )
            self._thread = run
            run.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2 * _TICK_S)

    def leave(self) -> None:
        """The rank's work has ended, well or badly. What is left to do has a limit of its own."""
        self._leaving_since = time.monotonic()

    def _run(self, heartbeat: Heartbeat) -> None:
        last = time.monotonic()
        while not self._stop.wait(_TICK_S):
            now = time.monotonic()
            if now - last > max(_FROZEN_S, self._control_plane.timeout_s / 4):
                # This process was stopped, and maybe the whole job (Slurm suspends so): time passed for nobody.
                heartbeat.resumed_at = now
            last = now
            self._look(heartbeat, now)

    def _look(self, heartbeat: Heartbeat, now: float) -> None:
        control_plane, limit_s = self._control_plane, self._control_plane.timeout_s
        silence_s = now - max(heartbeat.last_reply, heartbeat.resumed_at)
        if self._leaving_since is not None:
            if now - max(self._leaving_since, heartbeat.resumed_at) > _LEAVE_S:
                self._end_alone(heartbeat, silence_s)
            return
        if heartbeat.is_aborted:
            self._end(heartbeat, None)
        if heartbeat.is_broken and silence_s > limit_s:
            self._end_alone(heartbeat, silence_s)
        current = control_plane.phases.current
        at_stage = bool(heartbeat.stage)
        waited_s = now - max(heartbeat.stage_since if at_stage else current.since, heartbeat.resumed_at)
        saves = not at_stage and current.phase == SAVING
        if not at_stage and not saves and current.phase not in _MAY_WAIT:
            heartbeat.wanted = False
        elif waited_s > limit_s and silence_s > _NO_ANSWER_S:
            if silence_s > limit_s / 2 or (waited_s > limit_s + _NO_ANSWER_S and not saves):
                self._end_alone(heartbeat, silence_s)
        elif not at_stage:  # there the control plane itself looks for the others
            heartbeat.wanted = waited_s > _READ_AFTER_S
            if waited_s > limit_s:
                self._judge(heartbeat, current.phase, waited_s)
            elif heartbeat.wanted and not saves:
                self._look_for_gone(heartbeat)

    def _look_for_gone(self, heartbeat: Heartbeat) -> None:
        """NCCL does not notice that the process of a peer is gone; on this machine it can be seen."""
        peers = heartbeat.peers()
        gone, (before, read_before) = [one.rank for one in peers if one.is_gone], self._gone
        if not gone or gone != before:
            self._gone = gone, heartbeat.read_count
        elif heartbeat.read_count > read_before + 1:  # its last words, had there been any, would have been read by now
            lost = describe_missing(peers, gone, self._control_plane.timeout_s, is_over=False)
            self._end(heartbeat, lambda: f"{lost}. {_AGAIN}")

    def _judge(self, heartbeat: Heartbeat, phase: str, waited_s: float) -> None:
        limit_s = self._control_plane.timeout_s
        if heartbeat.read_count == 0 and waited_s < limit_s + _NO_ANSWER_S:
            return
        # Where no GPU is used, a rank in one of the other phases computes, and nobody need be to blame.
        waits = _MAY_WAIT if torch.cuda.is_initialized() else _WAITS_ON_CPU
        ranks = sorted([heartbeat.own(), *heartbeat.peers()], key=lambda one: one.rank)
        # A disk may be slow, and then a save takes as long as it takes; but nobody writes for a rank that is lost.
        blocking = find_lost(ranks, limit_s / 2) if phase == SAVING else find_blocking_ranks(ranks, waits, limit_s / 2)
        if phase not in waits and (not blocking or heartbeat.rank in {one.rank for one in blocking}):
            return

        def report() -> str:
            known = [one for one in blocking if one.rank != heartbeat.rank]
            shown = _attempt(_WORK_S, lambda: heartbeat.with_stacks(known)) or known
            shown += [one for one in blocking if one.rank == heartbeat.rank]
            return f"{render_hang(ranks, shown, waited_s, limit_s)}\n{_AGAIN}"

        self._end(heartbeat, report)

    def _end(self, heartbeat: Heartbeat, report: Callable[[], str] | None) -> None:
        """Give the job up with a report, or, without one, as another rank has. Does not return."""
        control_plane, failure_log = self._control_plane, heartbeat.failure_log
        recorded = self._recorded()
        text = report() + recorded if report is not None else None
        is_told = threading.Event()

        def report_and_leave() -> int:
            if text is not None and failure_log.post(self._failure(heartbeat, text)) == 1:
                failure_log.abort()
                _write_to_rank_file(text)
                failures = failure_log.collect()
                is_told.set()
                self._tell(render_failures(failures, control_plane.env.world_size))
                failure_log.mark_reported()
            else:
                failure_log.abort()
                _write_to_rank_file(failure_log.failures()[0].message + recorded)
                is_told.set()
                failure_log.await_report()
            code = failure_log.failures()[0].exit_code
            absent = sum(one.heartbeat_age_s > control_plane.timeout_s / 2 or one.is_gone for one in heartbeat.peers())
            heartbeat.close()
            failure_log.sign_off(control_plane.env.hosts_store, absent)
            return code

        code = _attempt(_REPORT_S, report_and_leave)
        if not is_told.is_set() and text is not None:
            self._say_here(text)
        _exit(PeerLostError.exit_code if code is None else code)

    def _say_here(self, text: str) -> None:
        """A report that could not be agreed on: once on each host."""
        _write_to_rank_file(text)
        if self._control_plane.speaks_for_host:
            _attempt(_WORK_S, lambda: self._tell(text))

    def _failure(self, heartbeat: Heartbeat, text: str) -> Failure:
        return Failure(heartbeat.rank, heartbeat.own().beat.host, PeerLostError.exit_code, text)

    def _end_alone(self, heartbeat: Heartbeat, silence_s: float) -> None:
        """The store gives no answer: report without it, once on each host. Does not return."""
        env = self._control_plane.env
        host: Peer | None = next((one for one in heartbeat.peers() if one.rank == 0), None)
        address = env.store_address
        text = render_silent_store(None if env.agent_store else host, address, silence_s)
        text += f"\n  this rank is {render_position(heartbeat.own().beat)}\n{_AGAIN}{self._recorded()}"
        self._say_here(text)
        _exit(PeerLostError.exit_code)

    def _recorded(self) -> str:
        """A sentence that names this rank's dump of torch's flight recorder, where there is one."""
        logs_dir, rank = self._control_plane.logs_dir, self._control_plane.env.rank
        path = _attempt(_WORK_S, lambda: flight_recorder.dump(logs_dir, rank)) if logs_dir is not None else None
        if path is None:
            return ""
        command = flight_recorder.how_to_read(path)
        return f"\nWhat was exchanged last is in {path}; to read it with those of the other ranks: {command}"


def _attempt(timeout_s: float, work: Callable[[], T]) -> T | None:
    """What `work` returns, or None where it takes longer or fails."""
    try:
        return run_with_timeout(timeout_s, work)
    except BaseException as error:  # whatever it is, this rank has to end
        log.debug("on the way out", exc_info=error)
        return None


def _write_to_rank_file(text: str) -> None:
    _attempt(_WORK_S, lambda: write_to_rank_file(text))


def _exit(code: int) -> None:
    _attempt(_WORK_S, sys.stdout.flush)
    os._exit(code)
