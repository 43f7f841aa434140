"""`disttrain` commands for tests, forked from a process that has imported torch once.

Hundreds of tests run a command, and most of the processor time of each would go into its imports and those of its ranks
(7 s for one rank and 15 s for two on a slow core, of which 2 and 4 remain). A forked command has its own session,
environment, working directory and streams, and runs the same code from its first line on. What only a new process has
(its imports, a launcher, a library that is missing or another's) is told by the environment, or asked for
(`DISTTRAIN_ANEW`): such a command is started anew.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import runpy
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from disttrain.commands.start import PRELOAD
from disttrain.launch.agent.forked_rank import ForkedRank, ForkServer
from disttrain.system.forkserver import serve_own_ranks
from disttrain.system.import_path import RUN_MODULE
from disttrain.system.processes import adopting_orphans

DISTTRAIN = [sys.executable, "-m", "disttrain"]
"""Forked."""
DISTTRAIN_ANEW = [sys.executable, "-u", "-m", "disttrain"]
"""The same, as a new process."""
AGENT = [sys.executable, "-m", "disttrain.commands.torchrun"]
"""What torchrun.sh runs, forked."""
_HERE = str(Path(__file__).parent)
_MODULES = (DISTTRAIN[2], AGENT[2])
_PRELOAD = (*PRELOAD, "disttrain.commands.main", "torch.distributed.run", "disttrain.launch.agent.elastic")
# Read by a library when it is imported, or by Python when it starts.
_READ_AT_START = (
    "OMP_",
    "MKL_",
    "KMP_",
    "GOMP_",
    "OPENBLAS_",
    "TORCH",
    "PYTORCH",
    "PYTHON",
    "LD_",
    "LC_",
    "LANG",
    "CUDA",
)
_NOT_READ = {"PYTHON", "PYTHONPATH", "TORCHINDUCTOR_CACHE_DIR"}
_ANSWER_POLL_S = 0.2


class CommandServer:
    """Forks the commands of this process's tests. Where it cannot, they are started anew."""

    def __init__(self) -> None:
        self._environ = {**os.environ, "PYTHONPATH": os.pathsep.join([_HERE, os.environ.get("PYTHONPATH", "")])}
        self._server = ForkServer(_PRELOAD, self._environ)
        self._lock = threading.Lock()  # scenarios of chaos run in threads, and what adopts orphans is the process

    def start(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """`subprocess.Popen(argv, start_new_session=True, ...)`, which needs `cwd`."""
        environ = options.get("env") or dict(os.environ)
        is_ours = list(argv[:2]) == [sys.executable, "-m"] and argv[2] in _MODULES
        if is_ours and self._is_alike(environ):
            with self._lock:
                self._server.wait_ready()
                return _ForkedCommand(self._server, argv, **options)
        return subprocess.Popen(argv, start_new_session=True, **options)

    def _is_alike(self, environ: Mapping[str, str]) -> bool:
        """Whether a new process with that environment would import the same from the same places."""
        changed = {
            name for name in environ.keys() | self._environ.keys() if environ.get(name) != self._environ.get(name)
        }
        if any(name.startswith(_READ_AT_START) for name in changed - _NOT_READ):
            return False
        return not any(_hides_a_module(Path(one)) for one in _python_path(environ))


@functools.cache
def command_server() -> CommandServer:
    """That of this process, with which it ends."""
    return CommandServer()


@pytest.fixture(scope="session", autouse=True)
def _commands_are_forked(isolated_cache: Path) -> None:
    """For the conftest.py of a folder whose tests start commands: the server is there before the first test."""
    command_server()


class _ForkedCommand(subprocess.Popen[Any]):
    """As Popen, but for how the process comes to be."""

    def __init__(self, server: ForkServer, argv: Sequence[str], **options: Any) -> None:
        self._server = server
        super().__init__(argv, start_new_session=True, **options)

    def _execute_child(self, args: Sequence[str], *options: Any) -> None:
        cwd, environ = options[4], options[5] or os.environ
        ours = options[9:15]  # pipes and files: p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite
        theirs = [f"/proc/{os.getpid()}/fd/{one}" if one != -1 else "" for one in (ours[0], ours[3], ours[5])]
        if ours[3] == ours[5] != -1:
            theirs[2] = "&1"
        is_open, opened = os.pipe()
        words = [sys.executable, "-u", RUN_MODULE, "forked", f"/proc/{os.getpid()}/fd/{opened}", str(cwd), *theirs]
        try:
            with adopting_orphans():
                rank = self._server.fork([*words, *args[2:]], dict(environ))
            if rank is None:
                super()._execute_child(args, *options)  # type: ignore[misc]
                return
            _wait_until_open(is_open, rank)
        finally:
            os.close(is_open)
            os.close(opened)
        self.pid = rank.pid
        self._child_created = True
        self._close_pipe_fds(*ours)  # type: ignore[attr-defined]


def _wait_until_open(is_open: int, rank: ForkedRank) -> None:
    while not select.select([is_open], [], [], _ANSWER_POLL_S)[0]:
        if not Path(f"/proc/{rank.pid}").exists():
            return


def _python_path(environ: Mapping[str, str]) -> list[str]:
    return [one for one in environ.get("PYTHONPATH", "").split(os.pathsep) if one]


def _hides_a_module(folder: Path) -> bool:
    """Whether a folder of PYTHONPATH has another module of a name that the commands' libraries, or Python, look for."""
    if not folder.is_dir():
        return False
    names = {one.name.partition(".")[0] for one in folder.iterdir() if one.suffix in ("", ".py", ".so")}
    return any(name.isidentifier() and _is_elsewhere(name, folder) for name in names)


def _is_elsewhere(name: str, folder: Path) -> bool:
    if name in ("sitecustomize", "usercustomize"):
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return True
    return spec is not None and spec.origin is not None and not spec.origin.startswith(f"{folder}{os.sep}")


def _become_command() -> None:
    """In the forked process: take folder and streams, and run the command with a server for its own ranks."""
    opened, cwd, *streams = sys.argv[1:6]
    words = sys.argv[6:]
    for number, stream in enumerate(streams):
        if stream == "&1":
            os.dup2(1, number)
        elif stream:
            file = os.open(stream, os.O_RDONLY if number == 0 else os.O_WRONLY)
            os.dup2(file, number)
            os.close(file)
    os.chdir(cwd)
    with open(opened, "wb", buffering=0) as parent:
        parent.write(b"\n")
    sys.path[:] = [*_python_path(os.environ), *(one for one in sys.path if one != _HERE)]
    if words[1:2] == ["serve"]:  # its processes are no ranks
        sys.argv[:] = words
    else:
        sys.argv[:] = ["--with-server", *words]
        serve_own_ranks()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _become_command()
