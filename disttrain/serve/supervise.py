"""Several processes on one socket, started again where one is lost."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess

from disttrain.errors import exit_code_of
from disttrain.log import log
from disttrain.system.processes import die_with_parent

Serve = Callable[[Callable[[], None]], None]
"""Serves in this process until a signal; calls what it is given once it is ready."""

_PAUSE_S = 1.0
"""Before a lost process is started again."""


class Supervisor:
    """Starts processes, keeps their number, and hands signals on to them."""

    def __init__(self, serve: Serve, count: int, on_ready: Callable[[], None]) -> None:
        self._serve, self._count, self._on_ready = serve, count, on_ready
        self._context = multiprocessing.get_context("fork")
        self._processes: list[ForkProcess] = []
        self._signal: int | None = None
        self._told_ready = False

    def run(self) -> int:
        """Until a signal has ended all processes; the exit code. One that cannot start ends all, at first."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward)
        code = self._start_one()  # alone: what is wrong with the model is told once
        while code is None and self._signal is None and len(self._processes) < self._count:
            code = self._start_one()
        if code is None and self._signal is None:
            self._on_ready()
        while self._processes:
            wait([process.sentinel for process in self._processes])
            self._reap()
        return code or 0

    def _start_one(self) -> int | None:
        """The exit code of a process that has ended before it was ready, else None."""
        ready, ready_here = self._context.Pipe(duplex=False)
        process = self._spawn(lambda: ready_here.send(True))
        ready_here.close()
        wait([ready, process.sentinel])
        if ready.poll():
            with contextlib.suppress(EOFError):
                ready.recv()
                return None
        process.join()
        self._processes.remove(process)
        if self._signal is None:
            self._forward(signal.SIGTERM)
        return process.exitcode or 0

    def _spawn(self, on_ready: Callable[[], None]) -> ForkProcess:
        process = self._context.Process(target=self._work, args=(on_ready, os.getpid()))
        process.start()
        self._processes.append(process)
        return process

    def _work(self, on_ready: Callable[[], None], parent: int) -> None:
        die_with_parent(parent)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

        def serve() -> int:
            self._serve(on_ready)
            return 0

        os._exit(exit_code_of(serve))

    def _reap(self) -> None:
        lost = [process for process in self._processes if not process.is_alive()]
        for process in lost:
            process.join()
            self._processes.remove(process)
            if self._signal is not None:
                continue
            log.warning("process %s has ended with %s: another one is started", process.pid, process.exitcode)
            time.sleep(_PAUSE_S)
            if self._signal is None:
                self._spawn(lambda: None)  # nobody waits for it

    def _forward(self, number: int, frame: object = None) -> None:
        self._signal = number
        for process in self._processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)
