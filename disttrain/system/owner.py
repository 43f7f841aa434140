"""One owner of a folder at a time: a lock that the kernel releases when its process ends, however it ends.

It is a POSIX record lock, which holds between all processes of a machine, whatever container they are in, and between
machines on file systems that share locks (NFS, Lustre with `flock`, GPFS). Where the file system has no locks, none is
held. Such a lock belongs to a process: `_held` is what tells two owners within one apart.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from disttrain.errors import ConfigError
from disttrain.log import log

OWNER = "owner.json"

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_TAKEN = (errno.EACCES, errno.EAGAIN)
_RETRY_S = 1.0  # another process that only looks holds a lock for a moment, and a new owner writes its name after it
_POLL_S = 0.02
_held: dict[tuple[int, int], dict[str, Any]] = {}


class Use(NamedTuple):
    """What a folder is for, in the words of a refusal."""

    name: str
    does: str
    option: str


_RUN = Use("run directory", "trains", "--run-dir")


class FolderOwner:
    """This process as the owner of a folder, until `close`."""

    def __init__(self, folder: Path, job: str = "", patience_s: float = 0.0, use: Use = _RUN) -> None:
        """Take the folder, which exists.

        Args:
            job: the same for processes that follow each other in one job.
            patience_s: how long to wait for a process of the same job that is about to end.
            use: what the folder is for, as a refusal names it.
        Raises ConfigError, with the owner's name, where another process has it; OSError where the file system refuses.
        """
        self._path, self._name = folder / OWNER, _own_name(job)
        began, said = time.monotonic(), False
        while (taken := self._take()) is not None:
            waited = time.monotonic() - began
            if waited > (patience_s if job and taken.get("job") == job else _RETRY_S):
                raise _refusal(folder, taken, use)
            if not said and waited > _RETRY_S:
                said = True
                log.info("waiting for %s, which is about to leave %s", _render(taken), folder)
            time.sleep(_POLL_S)
        with contextlib.suppress(OSError):  # a full disk costs the name, not the lock
            os.truncate(self._file, 0)
            os.pwrite(self._file, (json.dumps(self._name, indent=1) + "\n").encode(), 0)

    def _take(self) -> dict[str, Any] | None:
        """None where the folder is ours now, else who has it."""
        if (owner := _held_here(self._path)) is not None:
            return owner
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _lock(self._file, fcntl.LOCK_EX) and _is_at(self._file, self._path):
                _held[_key(self._file)] = self._name
                return None
            taken = _read(self._file)
        except BaseException:
            os.close(self._file)
            raise
        os.close(self._file)
        return taken

    def close(self) -> None:
        """Give the folder up."""
        if self._file < 0:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()
        _held.pop(_key(self._file), None)
        os.close(self._file)
        self._file = -1


def check_not_owned(folder: Path, job: str = "") -> None:
    """Raise ConfigError, with the owner's name, where a process of another job has the folder. Changes nothing."""
    owner = _held_here(folder / OWNER)
    if owner is None:
        try:
            file = os.open(folder / OWNER, os.O_RDONLY)
        except OSError:
            return
        try:
            owner = None if _lock(file, fcntl.LOCK_SH) else _read(file)
        finally:
            os.close(file)
    if owner is not None and not (job and owner.get("job") == job):
        raise _refusal(folder, owner, _RUN)


def _held_here(path: Path) -> dict[str, Any] | None:
    """The name of the owner in this process. To open and close its file would release the lock."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _held.get((status.st_dev, status.st_ino))


def _lock(file: int, kind: int) -> bool:
    """Whether nobody else has it; without locks on this file system nobody can tell."""
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _key(file: int) -> tuple[int, int]:
    status = os.fstat(file)
    return status.st_dev, status.st_ino


def _is_at(file: int, path: Path) -> bool:
    """Whether the file is still the one of this name: its owner removes it at the end."""
    try:
        found = path.stat()
    except OSError:
        return False
    return _key(file) == (found.st_dev, found.st_ino)


def _read(file: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(file, 1 << 16, 0))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _own_name(job: str) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "user": _user(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": sys.argv,
        "job": job,
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an id without a name
        return f"user id {os.getuid()}"


def _refusal(folder: Path, owner: dict[str, Any], use: Use) -> ConfigError:
    return ConfigError(
        f"the {use.name} {folder} is in use: {_render(owner)} {use.does} there. Wait for its end, stop it, or use "
        f"another {use.option}."
    )


def _render(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} of {owner.get('user')} on {owner.get('host')}, since {owner.get('since')},"
