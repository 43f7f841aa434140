"""Ends a rank that waits in vain for the others, with a report of who holds them up.

The training thread sits in C++ then, and the store may be gone with the rank that hosted it. So one thread here only
watches the clock and what `SignsOfLife` has found; what may block is done beside it, within a limit.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import torch

from disttrain import flight_recorder
from disttrain.comm.board import Board
from disttrain.comm.failures import Failure, render_failures
from disttrain.comm.lost import describe_missing, place
from disttrain.comm.signs import Peer, SignsOfLife
from disttrain.errors import PeerLostError
from disttrain.hang_report import find_culprits, find_lost, render_hang, render_silent_board
from disttrain.ledger import SAVING, WAITING
from disttrain.logs import log

T = TypeVar("T")

_TICK_S = 0.25
_READ_AFTER_S = 1.0  # of waiting: then the others' signs are read
_NO_ANSWER_S = 3.0  # from the store, which else answers every second
_LEAVE_S = 20.0  # for the failure protocol and for closing, when the work has ended
_FROZEN_S = 3.0  # between two ticks
_WORK_S = 2.0  # for each thing that may block, on the way out
_SETTLE_S = 12.0
# DDP reduces in `backward`, and a GPU's work is waited for where its results are first read.
_MAY_WAIT = frozenset({WAITING, "backward", "optimizer"})
_WAITS_ON_CPU = frozenset({WAITING})
_AGAIN = "Run the same command again to go on from the last checkpoint."


class Watchdog:
    """Watches one rank from the moment it has a board. With a single rank it does nothing."""

    def __init__(self, board: Board, tell: Callable[[str], None]) -> None:
        """`tell` gives the user the report, on the one rank that does."""
        self._board, self._tell = board, tell
        self._stop = threading.Event()
        self._leaving_since: float | None = None
        self._gone: tuple[list[int], int] = [], 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        if self._board.signs is not None:
            run = threading.Thread(target=self._run, args=(self._board.signs,), name="watchdog", daemon=True)
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

    def _run(self, signs: SignsOfLife) -> None:
        last = time.monotonic()
        while not self._stop.wait(_TICK_S):
            now = time.monotonic()
            if now - last > max(_FROZEN_S, self._board.timeout_s / 4):
                # This process was stopped, and maybe the whole job (Slurm suspends so): time passed for nobody.
                signs.awake_since = now
            last = now
            self._look(signs, now)

    def _look(self, signs: SignsOfLife, now: float) -> None:
        board, limit_s = self._board, self._board.timeout_s
        silence_s = now - max(signs.answered, signs.awake_since)
        if self._leaving_since is not None:
            if now - max(self._leaving_since, signs.awake_since) > _LEAVE_S:
                self._end_alone(signs, silence_s)
            return
        if signs.is_given_up:
            self._end(signs, None)
        if signs.is_broken and silence_s > limit_s:
            self._end_alone(signs, silence_s)
        entry = board.ledger.entry
        at_stage = bool(signs.stage)
        waited_s = now - max(signs.stage_since if at_stage else entry.since, signs.awake_since)
        saves = not at_stage and entry.phase == SAVING
        if not at_stage and not saves and entry.phase not in _MAY_WAIT:
            signs.wanted = False
        elif waited_s > limit_s and silence_s > _NO_ANSWER_S:
            if silence_s > limit_s / 2 or (waited_s > limit_s + _NO_ANSWER_S and not saves):
                self._end_alone(signs, silence_s)
        elif not at_stage:  # there the board itself looks for the others
            signs.wanted = waited_s > _READ_AFTER_S
            if waited_s > limit_s:
                self._judge(signs, entry.phase, waited_s)
            elif signs.wanted and not saves:
                self._look_for_gone(signs)

    def _look_for_gone(self, signs: SignsOfLife) -> None:
        """NCCL does not notice that the process of a peer is gone; on this machine it can be seen."""
        peers = signs.peers()
        gone, (before, round_before) = [one.rank for one in peers if one.is_gone], self._gone
        if not gone or gone != before:
            self._gone = gone, signs.rounds
        elif signs.rounds > round_before + 1:  # its last words, had there been any, would have been read by now
            lost = describe_missing(peers, gone, self._board.timeout_s, is_over=False)
            self._end(signs, lambda: f"{lost}. {_AGAIN}")

    def _judge(self, signs: SignsOfLife, phase: str, waited_s: float) -> None:
        limit_s = self._board.timeout_s
        if signs.rounds == 0 and waited_s < limit_s + _NO_ANSWER_S:
            return
        # Where no GPU is used, a rank in one of the other phases computes, and nobody need be to blame.
        waits = _MAY_WAIT if torch.cuda.is_initialized() else _WAITS_ON_CPU
        ranks = sorted([signs.own(), *signs.peers()], key=lambda one: one.rank)
        # A disk may be slow, and then a save takes as long as it takes; but nobody writes for a rank that is lost.
        culprits = find_lost(ranks, limit_s / 2) if phase == SAVING else find_culprits(ranks, waits, limit_s / 2)
        if phase not in waits and (not culprits or signs.rank in {one.rank for one in culprits}):
            return

        def report() -> str:
            known = [one for one in culprits if one.rank != signs.rank]
            shown = within(_WORK_S, lambda: signs.with_stacks(known)) or known
            shown += [one for one in culprits if one.rank == signs.rank]
            return f"{render_hang(ranks, shown, waited_s, limit_s)}\n{_AGAIN}"

        self._end(signs, report)

    def _end(self, signs: SignsOfLife, report: Callable[[], str] | None) -> None:
        """Give the job up with a report, or, without one, as another rank has. Does not return."""
        board, notices = self._board, signs.notices
        recorded = self._recorded()
        text = report() + recorded if report is not None else None
        is_told = threading.Event()

        def settle() -> int:
            if text is not None and notices.post(self._failure(signs, text)) == 1:
                notices.give_up()
                _write_to_rank_file(text)
                failures = notices.gathered()
                is_told.set()
                self._tell(render_failures(failures, board.env.world_size))
                notices.reported()
            else:
                notices.give_up()
                _write_to_rank_file(notices.failures()[0].message + recorded)
                is_told.set()
                notices.await_report()
            code = notices.failures()[0].exit_code
            absent = sum(one.silent_s > board.timeout_s / 2 or one.is_gone for one in signs.peers())
            signs.close()
            notices.leave(board.env.hosts_store, absent)
            return code

        code = within(_SETTLE_S, settle)
        if not is_told.is_set() and text is not None:
            self._say_here(text)
        _exit(PeerLostError.exit_code if code is None else code)

    def _say_here(self, text: str) -> None:
        """A report that could not be agreed on: once on each host."""
        _write_to_rank_file(text)
        if self._board.speaks_for_host:
            within(_WORK_S, lambda: self._tell(text))

    def _failure(self, signs: SignsOfLife, text: str) -> Failure:
        return Failure(signs.rank, signs.own().sign.host, PeerLostError.exit_code, text)

    def _end_alone(self, signs: SignsOfLife, silence_s: float) -> None:
        """The store gives no answer: report without it, once on each host. Does not return."""
        env = self._board.env
        host: Peer | None = next((one for one in signs.peers() if one.rank == 0), None)
        address = f"{env.master_addr}:{env.master_port}"
        text = render_silent_board(None if env.agent_store else host, address, silence_s)
        text += f"\n  this rank is {place(signs.own().sign)}\n{_AGAIN}{self._recorded()}"
        self._say_here(text)
        _exit(PeerLostError.exit_code)

    def _recorded(self) -> str:
        """A sentence that names this rank's dump of torch's flight recorder, where there is one."""
        logs_dir, rank = self._board.logs_dir, self._board.env.rank
        path = within(_WORK_S, lambda: flight_recorder.dump(logs_dir, rank)) if logs_dir is not None else None
        if path is None:
            return ""
        command = flight_recorder.how_to_read(path)
        return f"\nWhat was exchanged last is in {path}; to read it with those of the other ranks: {command}"


def within(seconds: float, work: Callable[[], T]) -> T | None:
    """What `work` returns, or None where it takes longer or fails. It may go on for all that anybody waits for it."""
    results: list[T] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            log.debug("on the way out", exc_info=error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None


def _write_to_rank_file(text: str) -> None:
    """Not through the logger: its other handlers write to the terminal and to the store."""
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, text, (), None)

    def write() -> None:
        for handler in log.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)

    within(_WORK_S, write)


def _exit(code: int) -> None:
    within(_WORK_S, sys.stdout.flush)
    os._exit(code)
