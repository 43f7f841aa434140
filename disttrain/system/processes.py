"""Processes as other processes of the same machine see them (on Linux; elsewhere nothing is known of them), and calls
that nobody has to wait for."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h

GONE = "gone"

_ENOUGH_FILES = 65_536


def parent_death_signal(number: signal.Signals) -> Callable[[], None]:
    """Something to call in a new process: from then on the kernel sends it this signal when its parent is gone.

    The library is loaded here already: between fork and exec that could block.
    """
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, number)

    return ask


def die_with_parent(parent: int) -> None:
    """Let the kernel end this process when `parent`, which has started it, is gone, however it went."""
    if sys.platform != "linux":
        return
    parent_death_signal(signal.SIGKILL)()
    if os.getppid() != parent:  # it went before the kernel was told
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def adopting_orphans() -> Iterator[bool]:
    """Within it processes below this one become its children where their parent ends; whether the kernel does that."""
    if sys.platform != "linux":
        yield False
        return
    prctl = ctypes.CDLL(None).prctl
    adopts = prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield adopts
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def replace_environ(environ: Mapping[str, str]) -> None:
    """Make this process's environment exactly `environ`."""
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    os.environ.update(environ)


def raise_file_limit() -> None:
    """Let this process open as many files as the system lets it: loader processes hand over each tensor as one."""
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def family_of(pid: int) -> list[int]:
    """A process and all below it, whatever sessions and groups they are in; parents before their children."""
    family, waiting = [], [pid]
    while waiting:
        family.append(waiting.pop())
        waiting += _children(family[-1])
    return family


def kill_family(pid: int) -> None:
    """Kill a process, then all that were below it."""
    for one in family_of(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def start_time_of(pid: int) -> int | None:
    """In clock ticks after boot, for process numbers are used again; None where it is gone, or this is not Linux."""
    stat = _stat(pid)
    return int(stat[1]) if stat else None


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended meanwhile, or this is not Linux
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


class ProcessId(NamedTuple):
    """One process of all machines and times."""

    machine: str
    """Machine, its boot, and the container's own process numbers."""
    pid: int
    started: int
    """In clock ticks after boot: process numbers are used again."""

    @classmethod
    def own(cls) -> ProcessId:
        """This process."""
        return cls(_own_machine(), os.getpid(), start_time_of(os.getpid()) or 0)


def process_state(process: ProcessId) -> str | None:
    """A letter as in /proc/PID/stat (`T` is stopped, `D` waits for a disk), `gone`, or None for another machine's."""
    if not process.machine or process.machine != _own_machine():
        return None
    stat = _stat(process.pid)
    if stat is None or int(stat[1]) != process.started or stat[0] in "ZX":
        return GONE
    return stat[0]


@functools.lru_cache(maxsize=1)
def _own_machine() -> str:
    try:
        return f"{_BOOT_ID.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 (not a path)
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str] | None:
    """State and time of start."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


class BackgroundCall(Generic[T]):
    """One call in a thread of its own."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="background call", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value.append(self._work())
        except BaseException as error:
            self._error = error

    def is_done(self, timeout_s: float = 0.0) -> bool:
        """Whether it has ended within that time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def result(self) -> T:
        """What a call that is done has returned or raised."""
        if self._error is not None:
            raise self._error
        return self._value[0]


def run_with_timeout(timeout_s: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises. Raises TimeoutError where it takes longer; it may then go on for all that anybody
    waits for it."""
    call = BackgroundCall(work)
    if not call.is_done(timeout_s):
        raise TimeoutError(f"no answer within {timeout_s:g} s")
    return call.result()
