"""The run directory and the data, as this host sees them."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path

from disttrain.config import Config
from disttrain.doctor.facts.model import Disk
from disttrain.files import expand_home, user_path
from disttrain.run_dir import CHECKPOINTS
from disttrain.system.marker import nearest_folder

_NEED_A_PATH = ("planesnet", "image_folder")
_CHUNK, _MOST, _ENOUGH_S = 1 << 20, 64 << 20, 0.4


def find_disk(run_dir: Path | None, config: Config | None) -> Disk:
    """Writes up to 64 MiB, for half a second at most, beside the run directory or in it, and removes it again."""
    disk = Disk()
    if config is not None and config.data.path is not None:
        path = user_path(expand_home(config.data.path))
        disk = Disk(data=str(path), data_error=_reading_error(path))
    elif config is not None and config.data.name in _NEED_A_PATH:
        disk = Disk(
            data="data.path", data_error=f"is not set, and data.name={config.data.name} reads a folder or a file"
        )
    if run_dir is None:
        return disk
    nearest = nearest_folder(run_dir)
    status = os.statvfs(nearest)
    free = status.f_bavail * status.f_frsize
    speed, error = _write(nearest, min(_MOST, free // 4))
    found = Disk(
        run_dir=str(run_dir.absolute()),
        run_dir_error=error,
        file_system=_file_system(nearest),
        free=free,
        write_speed=speed,
        checkpoint=_checkpoint_size(run_dir),
    )
    return found.model_copy(update={"data": disk.data, "data_error": disk.data_error})


def _write(folder: Path, most: int) -> tuple[float | None, str | None]:
    """Bytes per second over at most so many bytes, and why nothing can be written to the folder."""
    if not folder.is_dir():
        return None, f"{folder} is a file"
    path, chunk, written = folder / f".disttrain-{uuid.uuid4().hex}", os.urandom(_CHUNK), 0
    began = time.monotonic()
    try:
        with path.open("xb", buffering=0) as file:
            written += file.write(chunk[:4096])
            while written < most and time.monotonic() - began < _ENOUGH_S:
                written += file.write(chunk)
            os.fsync(file.fileno())
        return written / max(time.monotonic() - began, 1e-6), None
    except OSError as error:
        return None, f"{error.strerror} in {folder}"
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _file_system(folder: Path) -> str:
    """`ext4`, `nfs4`, `lustre`: of the mount with the longest path around the folder."""
    best = ("", "")
    with contextlib.suppress(OSError):
        place = str(folder.resolve())
        for line in Path("/proc/self/mounts").read_text().splitlines():
            point, kind = line.split()[1:3]
            point = point.encode().decode("unicode_escape", errors="replace")
            inside = place == point or place.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best[0]):
                best = (point, kind)
    return best[1]


def _checkpoint_size(run_dir: Path) -> int | None:
    """Of the newest checkpoint there; None where there is none."""
    sizes = []
    with contextlib.suppress(OSError):
        for folder in sorted((run_dir / CHECKPOINTS).glob("step_*")):
            sizes.append(sum(path.stat().st_size for path in folder.iterdir() if path.is_file()))
    return sizes[-1] if sizes else None


def _reading_error(path: Path) -> str | None:
    """Why data cannot be read there: a file, or a folder with something in it."""
    try:
        if path.is_dir():
            return None if next(path.iterdir(), None) is not None else "the folder is empty"
        with path.open("rb") as file:
            return None if file.read(1) else "the file is empty"
    except OSError as error:
        return error.strerror or str(error)
