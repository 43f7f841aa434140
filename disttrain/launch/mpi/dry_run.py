"""One start of all ranks that do nothing: mpirun itself says whether slots, hosts and options are right, and where
the ranks will be."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from disttrain.errors import ConfigError
from disttrain.launch.mpi.implementation import Mpi

_LIMIT_S = 60.0
_SSH = "-o ConnectTimeout=10 -o BatchMode=yes"  # else it asks for passwords, and takes minutes for a host that is off
_SSH_FAILS = r"\s*ssh: |.*Permission denied|.*Host key|Connection (to|closed|timed out|reset)"
# Open MPI 4, Open MPI 5, MPICH.
_SSH_VARIABLES = ("OMPI_MCA_plm_rsh_args", "PRTE_MCA_plm_ssh_args", "HYDRA_LAUNCHER_EXTRA_ARGS")


class RankHost(NamedTuple):
    """Where one rank will be, and how many cores that node gives it."""

    rank: int
    host: str
    cores: int


def dry_run(mpi: Mpi, options: Sequence[str], count: int, environ: Mapping[str, str]) -> list[RankHost]:
    """Where each rank will run. Raises ConfigError, with the way out, where mpirun does not start them.

    It answers in a fraction of a second on one node.
    """
    script = f'echo "disttrain-rank ${mpi.rank_variable} $(uname -n) $(env -u OMP_NUM_THREADS nproc) ."'
    argv = [mpi.program, *options, "sh", "-c", script]
    environ = {**dict.fromkeys(_SSH_VARIABLES, _SSH), **environ}
    try:
        done = subprocess.run(
            argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{mpi.program} has not started anything on all hosts within {_LIMIT_S:g} s. Try it by hand: "
            f"{shlex.join([mpi.program, *options, 'hostname'])}"
        ) from None
    if done.returncode != 0:
        raise ConfigError(_explain(mpi, options, count, f"{done.stdout}\n{done.stderr}"))
    found = re.findall(r"disttrain-rank (\d+) (\S+) (\d+) \.", done.stdout)
    return sorted(RankHost(int(rank), host, int(cores)) for rank, host, cores in found)


def _explain(mpi: Mpi, options: Sequence[str], count: int, said: str) -> str:
    if "not enough slots" in said:
        anyway = "--oversubscribe" if mpi.major < 5 else "--map-by :OVERSUBSCRIBE"
        return (
            f"-np {count}, but there are fewer slots: one per core of this machine ({os.cpu_count()} with "
            "hyper-threads), or what the host file (slots=N), --host (name:N) or the scheduler's allocation says. Ask "
            f"for fewer ranks, name more hosts or slots, or let ranks share cores with {anyway}."
        )
    ssh = [line.strip() for line in said.splitlines() if re.match(_SSH_FAILS, line)]
    if ssh:
        return (
            f"mpirun does not reach a host: {ssh[-1].rstrip('.')}. Each host of the host file must answer "
            "`ssh HOST true` without a password. Correct the host file, or make that host reachable."
        )
    lines = [line.strip() for line in said.splitlines() if re.search(r"\w", line)]
    return (
        f"{shlex.join([mpi.program, *options])} does not start: {' '.join(lines[:6]).rstrip('.')}. Correct its options."
    )


def hosts_of(rank_hosts: Sequence[RankHost]) -> list[str]:
    """The hosts, that of rank 0 first, each once."""
    return list(dict.fromkeys(one.host for one in rank_hosts))


def cores_per_rank(rank_hosts: Sequence[RankHost]) -> tuple[int, int]:
    """Cores and ranks of the node that is shared most closely."""
    shares = [(one.cores, sum(other.host == one.host for other in rank_hosts)) for one in rank_hosts]
    return min(shares, key=lambda share: share[0] / share[1], default=(1, 1))
