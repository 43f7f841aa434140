"""Waits for the end of a search's driver, however it comes, and ends what Ray has left.

A driver that is killed takes its trials with it, but some of Ray's helpers notice only after a minute, and its folder
of sockets and logs would stay for good. Those helpers write their title over what would name the session, and their
parent ends with the driver: so the driver's processes are noted while it lives.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from disttrain.system.import_path import RUN_MODULE
from disttrain.system.processes import die_with_parent, family_of, kill_family, start_time_of

_LOOK_EVERY_S = 1.0
_AGAIN = 5  # a process may just be starting another one
_PAUSE_S = 0.1


@contextlib.contextmanager
def reaping(session: Path) -> Iterator[None]:
    """Within it `session` and all processes that name it end with this process; at its end they do at once."""
    command = [sys.executable, "-u", RUN_MODULE, "disttrain.tune.reaper", str(session)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as process:
        assert process.stdin is not None  # the kernel closes it with this process
        assert process.stdout is not None
        process.stdout.readline()  # it looks from now on
        try:
            yield
        finally:
            process.stdin.close()
            process.wait()


@contextlib.contextmanager
def own_group() -> Iterator[None]:
    """Within it what this process starts is in another process group than its own: a signal to the group, as a terminal
    and `timeout` send it, is for this process to answer, not for Ray. Where that cannot be, nothing changes."""
    before, driver = os.getpgrp(), os.getpid()
    placeholder = os.fork()
    if not placeholder:
        die_with_parent(driver)  # it holds what the driver had open, the reaper's input among it
        os.setpgid(0, 0)
        signal.pause()
        os._exit(0)
    try:
        with contextlib.suppress(OSError):  # a session's leader stays in its group
            os.setpgid(placeholder, placeholder)
            os.setpgid(0, placeholder)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpgid(0, before)
        os.kill(placeholder, signal.SIGKILL)
        os.waitpid(placeholder, 0)


def processes_naming(path: Path) -> list[int]:
    """Processes of this user with the path in their command or environment, but for this one."""
    wanted, found = os.fsencode(path), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
                if wanted in (entry / "cmdline").read_bytes() or wanted in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def main() -> None:
    """`SESSION`, and a standard input that ends with the driver."""
    session = Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    driver = os.getppid()
    started: dict[int, int | None] = {}
    os.write(1, b"ready\n")
    while not select.select([sys.stdin], [], [], _LOOK_EVERY_S)[0]:
        started.update({pid: start_time_of(pid) for pid in family_of(driver) if pid != os.getpid()})
    for _ in range(_AGAIN):
        found = processes_naming(session)
        if os.getppid() != driver:  # it was killed
            found += [pid for pid, when in started.items() if when is not None and start_time_of(pid) == when]
        for pid in found:
            if pid != driver:  # it ends itself, or has ended
                kill_family(pid)
        time.sleep(_PAUSE_S)
    shutil.rmtree(session, ignore_errors=True)


if __name__ == "__main__":
    main()
