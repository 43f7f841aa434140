"""Which MPI an `mpirun` belongs to, and how that one calls the options that we need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from disttrain.errors import ConfigError

_FORWARDED = (
    "OMP_NUM_THREADS",
    "PYTHONPATH",
    "PATH",
    "LD_LIBRARY_PATH",
    "MASTER_ADDR",
    "MASTER_PORT",
    "XDG_CACHE_HOME",
)
_FORWARDED_PREFIXES = ("HOROVOD_", "NCCL_", "DISTTRAIN_", "TORCH_", "GLOO_", "MKL_", "UCX_")
_ANSWER_S = 20.0


@dataclass(frozen=True)
class Mpi:
    """An mpirun that was found. `name` is `Open MPI` or `MPICH` (with Intel's, which is one).

    `program` is no path: from one Open MPI would conclude on where it is on the other nodes.
    """

    program: str
    name: str
    major: int

    @property
    def is_openmpi(self) -> bool:
        return self.name == "Open MPI"

    @property
    def rank_variable(self) -> str:
        """In which a rank finds its number."""
        return "OMPI_COMM_WORLD_RANK" if self.is_openmpi else "PMI_RANK"

    def options(self, given: Iterable[str], environ: Mapping[str, str]) -> list[str]:
        """Those that the user would otherwise have to know, where he has not given them."""
        if not self.is_openmpi:
            return []  # it binds nothing by default, and hands its whole environment on
        words = [word.lstrip("-").partition("=")[0] for word in given]
        added = []
        if os.geteuid() == 0 and "allow-run-as-root" not in words:
            added.append("--allow-run-as-root")
        if not {"bind-to", "map-by", "rank-by", "bind-to-core", "cpus-per-proc", "cpu-set"} & set(words):
            added += ["--bind-to", "none", "--map-by", "slot"]  # by default all threads of a rank would share one core
        for name in sorted(environ):
            if name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES):
                added += ["-x", name]
        return added

    @property
    def silence(self) -> list[str]:
        """Options without which its own long report of an exit code follows the ranks' report of the reason."""
        return ["--quiet"] if self.is_openmpi and self.major < 5 else []


def find_mpi(want_mpich: bool) -> Mpi:
    """The mpirun on the PATH. Raises ConfigError where there is none, or one of a kind that nobody knows."""
    names = ("mpirun.mpich", "mpiexec.hydra", "mpirun") if want_mpich else ("mpirun", "mpiexec")
    program = next((name for name in names if shutil.which(name)), None)
    if program is None:
        raise ConfigError(
            f"there is no {names[-1] if want_mpich else names[0]} on the PATH. Load your site's MPI module, install "
            "one (Debian: apt-get install openmpi-bin), or start with launchers/torchrun.sh."
        )
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{program} --version: {error}. Put a working mpirun on the PATH.") from None
    text = f"{done.stdout}\n{done.stderr}"
    if match := re.search(r"\(?Open MPI\)? v?(\d+)\.", text):
        if want_mpich:
            raise ConfigError(f"--mpich, but {shutil.which(program)} is of Open MPI {match[1]}. Leave --mpich out.")
        return Mpi(program, "Open MPI", int(match[1]))
    if match := re.search(r"HYDRA[\s\S]*?Version:\s*(\d+)|Intel\(R\) MPI Library.*?Version (\d+)", text):
        return Mpi(program, "MPICH", int(match[1] or match[2]))
    first = text.strip().splitlines()[:1] or ["nothing"]
    raise ConfigError(
        f"{shutil.which(program)} --version says {first[0]!r}: it must be Open MPI's or MPICH's. Put one on the PATH."
    )
