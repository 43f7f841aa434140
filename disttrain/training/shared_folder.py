"""Whether all nodes see one run directory: else each would keep logs of its own, and nobody could go on from a save."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from pathlib import Path

from disttrain.comm.control_plane import ControlPlane
from disttrain.errors import ConfigError

_PATIENCE_S = 10.0  # a client of NFS may remember for some seconds that a file was not there
_POLL_S = 0.1


def check_shared(control_plane: ControlPlane, run_dir: Path) -> None:
    """Raise RanksFailed on every rank where a node does not see the run directory that rank zero sees.

    Nothing is left behind: rank zero writes a file beside it, or in it, for as long as the others look for it.
    """
    env = control_plane.env
    if env.on_one_machine:
        return
    folder = run_dir.absolute()
    marker: Path | None = None
    try:
        marker = control_plane.run_on_all("shared/write", lambda: _write_marker(folder) if env.is_rank_zero else None)
        place = control_plane.broadcast("shared/place", os.path.relpath(marker, folder) if marker else None)
        control_plane.run_on_all("shared/look", lambda: None if env.is_rank_zero else _look(folder, place))
    finally:
        if marker is not None:
            with contextlib.suppress(OSError):
                marker.unlink()


def _write_marker(folder: Path) -> Path:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    marker = nearest / f".disttrain-{uuid.uuid4().hex}"
    try:
        marker.touch(exist_ok=False)
    except OSError as error:
        raise ConfigError(
            f"the run directory {folder} cannot be written: {error.strerror} in {nearest}. Use another --run-dir."
        ) from None
    return marker


def _look(folder: Path, place: str) -> None:
    marker = Path(os.path.normpath(folder / place))
    deadline = time.monotonic() + _PATIENCE_S
    while not marker.exists():
        if time.monotonic() > deadline:
            raise ConfigError(
                f"the run directory {folder} on {socket.gethostname()} is not the one of rank 0's host: a file that "
                f"rank 0 has just written to {marker.parent} is not there. All nodes must see one run directory. Use a "
                "--run-dir on a shared disk."
            )
        with contextlib.suppress(OSError):
            os.listdir(marker.parent)  # noqa: PTH208 (for its effect: the client asks the server again)
        time.sleep(_POLL_S)
