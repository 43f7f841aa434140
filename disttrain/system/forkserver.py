"""The process from which an agent forks its ranks: it has imported what they need, and does nothing else.

A rank that is started afresh pays seconds of processor time for `import torch` and what its first optimizer imports,
at every start and restart. A forked one has them, and shares the memory that they take.

Everything here runs in that process or in the ranks that leave it; `launch/agent/forked_rank.py` is the agent's side.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from disttrain.system.command_line import show_command
from disttrain.system.processes import die_with_parent, replace_environ
from disttrain.system.streams import secure_streams

_ADOPTION_S = 10.0  # a process that has just been forked and has nothing to do but to end
_THREADS_END_S = 1.0


def serve() -> None:
    """Import the modules that the command line names, and fork a rank whenever the agent asks for one.

    Returns in the ranks only, where `sys.argv`, environment and signals are those that the agent gives.
    """
    agent, control = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    die_with_parent(agent)
    secure_streams()  # before torch is imported, whose log handlers keep the streams that they find
    try:
        for name in sys.argv[3:]:
            importlib.import_module(name)
        _check_forks_are_whole()
    except BaseException:
        os._exit(1)  # the ranks, which are then started afresh, say what is wrong
    gc.collect()
    gc.freeze()  # pages that the collector does not touch stay shared
    control.sendall(b"\n")
    _fork_on_request(control, agent)


def serve_own_ranks() -> None:
    """Fork a server for the ranks of this process, which is an agent that was itself forked with all imports.

    The server's ranks return, as those of `serve` do. In this process `take_own_server` has what belongs to it.
    """
    del sys.argv[0]
    agent = os.getpid()
    ours, theirs = socket.socketpair()
    if server := os.fork():
        theirs.close()
        _own_server.append((ours, server))
        return
    ours.close()
    die_with_parent(agent)
    os.setsid()
    _fork_on_request(theirs, agent)


_own_server: list[tuple[socket.socket, int]] = []


def take_own_server(preload: Sequence[str]) -> tuple[socket.socket, int] | None:
    """The connection to the server that `serve_own_ranks` has forked, and its process id; once, and only where it has
    all these modules."""
    return _own_server.pop() if _own_server and all(name in sys.modules for name in preload) else None


def _fork_on_request(control: socket.socket, agent: int) -> None:
    """Returns in the ranks only."""
    while True:
        try:
            _, channels, *_ = socket.recv_fds(control, 1, 1)
        except ConnectionResetError:  # the agent has ended without having read that this server is ready
            channels = []
        if not channels:
            os._exit(0)
        if _fork():
            break
        os.close(channels[0])
    control.close()
    with socket.socket(fileno=channels[0]) as channel:
        _become_rank(channel, agent)


def _check_forks_are_whole() -> None:
    """Raise RuntimeError where a forked process would miss what this one has: other threads (OpenBLAS ends its own
    before a fork and starts them again after it), or a GPU that has been initialised."""
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        os._exit(0)
    deadline = time.monotonic() + _THREADS_END_S
    while len(list(Path("/proc/self/task").iterdir())) > 1:
        if time.monotonic() > deadline:
            raise RuntimeError("an imported module has started a thread, which a forked process would not have")
        time.sleep(0.01)
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("an imported module has initialised the GPU, which a forked process could not use")


def _fork() -> bool:
    """Whether this is the new process. It is no child of this one: that parent ends, and the agent adopts it."""
    try:
        if child := os.fork():
            os.waitpid(child, 0)
            return False
        if os.fork():
            os._exit(0)
    except OSError:  # no memory, or too many processes: the agent hears of it by the end of the channel
        os._exit(1)
    return True


def _become_rank(channel: socket.socket, agent: int) -> None:
    """Make this process what one would be that the agent had started with the command that it sends."""
    os.setsid()
    deadline = time.monotonic() + _ADOPTION_S
    while os.getppid() != agent:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.001)
    die_with_parent(agent)
    try:
        channel.sendall(b"%d\n" % os.getpid())
        with channel.makefile() as lines:
            command, environ, caught = json.loads(lines.readline())
    except (OSError, ValueError):  # the agent is gone, or goes on without this process
        os._exit(1)
    for number in caught:  # by the agent; what it ignored, or had ignored for it, has no effect on its ranks
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    replace_environ(environ)
    show_command(command, environ)
    sys.orig_argv[:], sys.argv[:] = command, command[_MODULE:]
    _forget_what_was_drawn()


_MODULE = 3  # of `python -u run_module.py MODULE ARGUMENTS`


def _forget_what_was_drawn() -> None:
    """What each new process draws for itself at import (Python's `random` and `tempfile` see to it by themselves)."""
    tempfile.tempdir = None
    multiprocessing.current_process().authkey = os.urandom(32)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
