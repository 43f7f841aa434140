"""For which torch, and with which MPI, the installed Horovod was built. Its library is read, not loaded."""

from __future__ import annotations

import importlib.util
import json
import mmap
import re
import runpy
from pathlib import Path
from typing import NamedTuple

from disttrain.errors import ConfigError

_INSTALL = "launchers/install_horovod.sh"


class HorovodBuild(NamedTuple):
    """`mpi` is `Open MPI`, `MPICH`, or None for a build with the gloo controller only."""

    torch: str
    mpi: str | None


def find_horovod_build() -> HorovodBuild:
    """Raises ConfigError where Horovod is not there, is not built for torch, or is built for another one."""
    spec = importlib.util.find_spec("horovod")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "train.backend=horovod, and Horovod is not installed. Its published package does not build for this "
            f"torch: {_INSTALL} does it. Or take train.backend=ddp."
        )
    folder = Path(spec.origin).parent
    library = next((folder / "torch").glob("mpi_lib_v2*.so"), None)
    metadata = folder / "metadata.json"
    built_for = json.loads(metadata.read_text()).get("pytorch") if metadata.is_file() else None
    if library is None or not built_for:
        raise ConfigError(f"the Horovod in {folder} is built without torch. Build it again: {_INSTALL}")
    if built_for != (torch := _torch_version()):
        raise ConfigError(
            f"Horovod is built for torch {built_for}, but torch {torch} is here. Build it again: {_INSTALL}"
        )
    return HorovodBuild(built_for, _mpi_of(library))


def check_mpi(build: HorovodBuild, mpi: str) -> None:
    """Refuse the mpirun of an MPI that this Horovod was not built with: each rank would be alone."""
    if build.mpi is None:
        raise ConfigError(
            "this Horovod is built without MPI: it cannot join ranks of mpirun. Install MPI's headers (Debian: apt-get "
            f"install libopenmpi-dev openmpi-bin) and run {_INSTALL} again, or start with launchers/horovodrun.sh."
        )
    if build.mpi != mpi:
        raise ConfigError(
            f"mpirun is of {mpi}, but Horovod is built with {build.mpi}: each rank would take itself for the only one. "
            f"Put the mpirun of {build.mpi} first on the PATH, or build Horovod with {mpi}: {_INSTALL}"
        )


def _torch_version() -> str:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise ConfigError("torch is not installed here. Run make setup, or activate your environment.")
    return str(runpy.run_path(str(Path(spec.origin).with_name("version.py")))["__version__"])


def _mpi_of(library: Path) -> str | None:
    """By the name of the library that it wants: 40 is Open MPI's from 3 to 5, 12 that of MPICH and what is like it."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = re.search(rb"\0libmpi(ch)?\.so\.(\d+)\0", content)
        if match is None:
            return None
        return "Open MPI" if match[1] is None and int(match[2]) >= 20 else "MPICH"
