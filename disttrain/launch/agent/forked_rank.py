"""Ranks that are forked from a process which has imported everything, in the place of torch's new processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from disttrain.launch.agent.signals import NOTED
from disttrain.system.forkserver import take_own_server
from disttrain.system.import_path import RUN_MODULE
from disttrain.system.processes import adopting_orphans

_ANSWER_S = 60.0  # of a process that only has to fork, on a machine that is very busy
_POLL_S = 0.05


class ForkedRank:
    """A rank that was forked for this process, with what is used of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        """As that of Popen: negative where a signal has ended the process."""

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit code, once there is one. Raises subprocess.TimeoutExpired."""
        began = time.monotonic()
        while (code := self.poll()) is None:
            if timeout_s is not None and time.monotonic() - began > timeout_s:
                raise subprocess.TimeoutExpired(f"rank {self.pid}", timeout_s)
            time.sleep(_POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        """Nothing happens where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As that of Popen."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """`system/forkserver.py` for this agent. Whatever happens to it, ranks that run do not notice."""

    def __init__(self, preload: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        """
        Args:
            preload: modules that every rank needs; none of them starts a thread or looks at a GPU.
            environ: that of the server (default: of this process); it holds what is read when they are imported
                (OMP_NUM_THREADS).
        """
        self._preload, self._environ = list(preload), environ
        self._process: subprocess.Popen[bytes] | ForkedRank | None = None
        self._control: socket.socket | None = None
        self._is_ready = False
        self.start()

    def start(self) -> None:
        """Start it, where it does not run; it takes a while to be ready."""
        if sys.platform != "linux" or (self._process is not None and self._process.poll() is None):
            return
        self.close()
        if (own := take_own_server(self._preload)) is not None:
            self._control, self._process, self._is_ready = own[0], ForkedRank(own[1]), True
            return
        self._control, theirs = socket.socketpair()
        with theirs:
            numbers = [str(os.getpid()), str(theirs.fileno())]
            command = [sys.executable, "-u", RUN_MODULE, "--fork", *numbers, *self._preload]
            self._process = subprocess.Popen(
                command, env=self._environ, pass_fds=[theirs.fileno()], start_new_session=True
            )

    def wait_ready(self) -> None:
        """Until it has imported everything, or ended: ranks are then started without it."""
        if self._control is not None and not self._is_ready:
            self._is_ready = self._control.recv(1) != b""

    def fork(self, command: Sequence[str], environ: Mapping[str, str]) -> ForkedRank | None:
        """A rank that runs `command`, of `run_module.py`; None where there is no server that could fork it.

        Within `adopting_orphans`: the rank becomes a child of this process.
        """
        if self._control is None or not self._is_ready:
            return None
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(_ANSWER_S)
            try:
                socket.send_fds(self._control, [b"\n"], [theirs.fileno()])
                theirs.close()
                with ours.makefile() as lines:
                    rank = ForkedRank(int(lines.readline()))
                request = [list(command), dict(environ), list(NOTED)]
                ours.sendall(json.dumps(request).encode() + b"\n")
            except (OSError, ValueError):  # it is gone, or hangs; a rank that is not done ends by itself
                self.close()
                return None
        return rank

    def close(self) -> None:
        """End it."""
        if self._control is not None and self._process is not None:
            self._control.close()
            self._process.kill()
            self._process.wait()
        self._control, self._process, self._is_ready = None, None, False


@contextlib.contextmanager
def forking_from(server: ForkServer | None) -> Iterator[None]:
    """Within it torch's elastic agent takes from `server` the ranks that are the same when they are forked.

    These are ranks of this package with the agent's own streams. Others start as torch starts them.
    """
    from torch.distributed.elastic.multiprocessing import api
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    class Handler(SubprocessHandler):
        def _popen(self, args: tuple[str, ...], env: dict[str, str]) -> Any:
            assert server is not None
            is_ours = args[:4] == (sys.executable, "-u", RUN_MODULE, "disttrain")
            rank = server.fork(args, env) if is_ours and not self._stdout and not self._stderr else None
            return rank or super()._popen(args, env)

    torch_api: Any = api
    usual = torch_api.get_subprocess_handler
    with adopting_orphans() as adopts:
        if server is not None and adopts:
            torch_api.get_subprocess_handler = Handler
        try:
            yield
        finally:
            torch_api.get_subprocess_handler = usual
