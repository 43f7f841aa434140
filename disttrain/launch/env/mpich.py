"""The reader for mpirun of MPICH, and of Intel MPI, which comes from it."""

from __future__ import annotations

from disttrain.errors import ConfigError
from disttrain.launch.env.model import RankEnv
from disttrain.launch.env.reading import (
    MPICH,
    Environ,
    check_numbers,
    check_reachable,
    get,
    host_of,
    numbers,
    port,
    whole,
)


def is_mpich(environ: Environ) -> bool:
    """Whether mpirun of MPICH started this process. PMI_RANK alone may be srun's, which has a reader of its own."""
    return get(environ, MPICH.rank) is not None and get(environ, MPICH.local_rank) is not None


def mpich(environ: Environ) -> RankEnv:
    """A rank of MPICH's mpirun. Its ranks have nothing of their job in common from which they could derive a port."""
    found = numbers(environ, MPICH)
    check_numbers(MPICH, found)
    alone = found.world_size == 1
    address = host_of(environ) or ("127.0.0.1" if found.world_size == found.local_world_size else None)
    if address is None or (get(environ, "MASTER_PORT") is None and not alone):
        missing = "MASTER_ADDR" if address is None else "MASTER_PORT"
        raise ConfigError(
            f"{MPICH.world_size}={found.world_size}, {MPICH.local_world_size}={found.local_world_size}, and {missing} "
            "is not set: ranks meet at a port of rank 0's host, which MPICH does not tell. launchers/mpirun.sh sets "
            "both; or start with mpirun -genv MASTER_ADDR <host of rank 0> -genv MASTER_PORT 29500"
        )
    check_reachable(MPICH, found, address)
    master_port = port(environ, "MASTER_PORT", 0 if alone else None)
    return RankEnv(
        "mpich",
        found.rank,
        found.local_rank,
        found.rank // found.local_world_size,
        found.world_size,
        found.local_world_size,
        address,
        master_port,
        restart_count=whole(environ, "SLURM_RESTART_COUNT", 0),
        run_id=f"{address}:{master_port}",
    )
