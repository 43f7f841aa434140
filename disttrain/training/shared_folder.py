"""Whether all nodes see one run directory: else each would keep logs of its own, and nobody could go on from a save."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from disttrain.comm.control_plane import ControlPlane
from disttrain.errors import ConfigError
from disttrain.system.marker import find_marker, nearest_folder, write_marker

_PATIENCE_S = 10.0  # a client of NFS may remember for some seconds that a file was not there


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
    try:
        return write_marker(folder)
    except OSError as error:
        raise ConfigError(
            f"the run directory {folder} cannot be written: {error.strerror} in {nearest_folder(folder)}. Use another "
            "--run-dir."
        ) from None


def _look(folder: Path, place: str) -> None:
    if (unseen := find_marker(folder, place, _PATIENCE_S)) is not None:
        raise ConfigError(
            f"the run directory {folder} on {socket.gethostname()} is not the one of rank 0's host: {unseen}. All "
            "nodes must see one run directory. Use a --run-dir on a shared disk."
        )
