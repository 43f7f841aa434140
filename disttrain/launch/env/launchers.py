"""One reader per launcher that starts every rank itself: torchrun, srun, mpirun, horovodrun, and a user's own hand."""

from __future__ import annotations

import re

from disttrain.errors import ConfigError
from disttrain.launch.env.model import RankEnv
from disttrain.launch.env.reading import (
    HOROVOD,
    OPENMPI,
    PLAIN,
    SLURM,
    Environ,
    Numbers,
    bare_address,
    check_numbers,
    check_reachable,
    get,
    hashed_port,
    host_of,
    is_loopback,
    needed,
    numbers,
    port,
    whole,
)

AGENT_VARIABLE = "DISTTRAIN_AGENT_PID"
"""Our agent's process id, for ranks that are to end with it."""
JOB_VARIABLE = "DISTTRAIN_JOB_ID"
"""A name that whoever may start this job again gives to all its starts: a batch script that requeues itself, say."""
ROUND_VARIABLE = "DISTTRAIN_ROUND"
"""Our agent's name for one start of the ranks, `JOB.NUMBER`. torch's restart count stays the same when a node joins."""


def is_torchrun(environ: Environ) -> bool:
    """Whether torch's elastic agent started this process as a worker."""
    return get(environ, "TORCHELASTIC_RUN_ID") is not None and get(environ, "LOCAL_RANK") is not None


def torchrun(environ: Environ) -> RankEnv:
    """A worker of torch's elastic agent. localhost is let through: two agents tried on one machine see just that."""
    found = numbers(environ, PLAIN)
    check_numbers(PLAIN, found)
    return RankEnv(
        "torchrun",
        found.rank,
        found.local_rank,
        whole(environ, "GROUP_RANK"),
        found.world_size,
        found.local_world_size,
        host_of(environ) or needed(environ, "MASTER_ADDR", beside="TORCHELASTIC_RUN_ID"),
        port(environ, "MASTER_PORT"),
        restart_count=whole(environ, "TORCHELASTIC_RESTART_COUNT", 0),
        agent_store=get(environ, "TORCHELASTIC_USE_AGENT_STORE") == "True",
        run_id="/".join(filter(None, (get(environ, "TORCHELASTIC_RUN_ID"), get(environ, ROUND_VARIABLE)))),
        job_id=(get(environ, ROUND_VARIABLE) or "").partition(".")[0],
    )


def is_slurm_step(environ: Environ) -> bool:
    """Whether srun started this process. SLURM_PROCID=0 alone says nothing: the batch script of n tasks has it too."""
    if get(environ, "SLURM_STEP_ID") is None or get(environ, "SLURM_PROCID") is None:
        return False
    if whole(environ, "SLURM_STEP_ID") >= 0xFFFFFFF0:
        return False  # not srun's: the shell that salloc opens on a node runs in "interactive step" 0xFFFFFFFA
    # sbatch called inside a step hands its SLURM_STEP_* on to the new batch script, beside the new job's own counts.
    pairs = (("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"), ("SLURM_NNODES", "SLURM_STEP_NUM_NODES"))
    values = [(get(environ, a), get(environ, b)) for a, b in pairs]
    stale = any(a is not None and b is not None and a != b for a, b in values)
    return not (stale and whole(environ, "SLURM_PROCID") == 0)


_IN_A_SHELL = (
    "In the shell of `srun --pty` the other tasks are no ranks: put `env -u SLURM_STEP_ID` before the command."
)


def slurm(environ: Environ) -> RankEnv:
    """A task of an srun step."""
    job, step = whole(environ, "SLURM_JOB_ID"), whole(environ, "SLURM_STEP_ID")
    node = whole(environ, "SLURM_NODEID")
    found = Numbers(
        whole(environ, "SLURM_PROCID"),
        whole(environ, "SLURM_STEP_NUM_TASKS" if get(environ, "SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"),
        whole(environ, "SLURM_LOCALID"),
        slurm_local_tasks(environ, node),
    )
    check_numbers(SLURM, found)
    address = host_of(environ)
    if address is None:
        hosts = get(environ, "SLURM_STEP_NODELIST")
        address = first_host(hosts or needed(environ, "SLURM_JOB_NODELIST", beside="SLURM_STEP_ID"))
    check_reachable(SLURM, found, address)
    return RankEnv(
        "slurm",
        found.rank,
        found.local_rank,
        node,
        found.world_size,
        found.local_world_size,
        address,
        # 17 apart, not hashed: the jobs of an array share nodes, and a hash would soon give two of them the same port.
        port(environ, "MASTER_PORT", 15000 + (job * 17 + step) % 10000),
        restart_count=whole(environ, "SLURM_RESTART_COUNT", 0),
        run_id=f"{job}.{step}",
        hint=_IN_A_SHELL if get(environ, "SLURM_PTY_PORT") is not None else "",
    )


def slurm_local_tasks(environ: Environ, node: int) -> int:
    """How many tasks the step has on its node number `node`, from a list like '2(x2),1'."""
    name = "SLURM_STEP_TASKS_PER_NODE" if get(environ, "SLURM_STEP_TASKS_PER_NODE") else "SLURM_TASKS_PER_NODE"
    text = needed(environ, name, beside="SLURM_STEP_ID")
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]+)(?:\(x([0-9]+)\))?", part)
        if match is None:
            raise ConfigError(f"{name}={text!r}: it must be a list like '2(x2),1'. Leave it as srun sets it.")
        counts += [int(match[1])] * int(match[2] or 1)
    if node >= len(counts):
        raise ConfigError(
            f"SLURM_NODEID={node}, {name}={text!r}: nodes count from 0 to {len(counts) - 1}. Leave both to srun."
        )
    return counts[node]


def first_host(hostlist: str) -> str:
    """The first host of a Slurm host list: 'n[01-03,07]-ib,x' -> 'n01-ib'."""
    match = re.match(r"(?:[^,\[\]]|\[[^,\[\]-][^\[\]]*\])+(?=,|$)", hostlist.strip())
    if match is None:
        raise ConfigError(f"node list {hostlist!r}: it must read like 'n[1-3],x'. Export MASTER_ADDR=<first host>.")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", match[0])


def hosts_of(hostlist: str) -> list[str]:
    """All hosts of a Slurm host list: 'n[1-2,07],x' -> n1, n2, n07, x."""
    hosts = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", hostlist.strip()):
        names = [""]
        for text, ranges in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", part):
            names = [name + one for name in names for one in ([text] if text else _numbers_in(ranges))]
        hosts += names
    return hosts


def slurm_hosts(environ: Environ) -> list[str]:
    """The nodes of this Slurm step, in the order of its ranks; none outside of Slurm."""
    return hosts_of(get(environ, "SLURM_STEP_NODELIST") or get(environ, "SLURM_JOB_NODELIST") or "")


def seems_another_rank(environ: Environ) -> bool:
    """Whether a launcher's variable says that this is not rank zero, whatever the others say."""
    names = (PLAIN.rank, OPENMPI.rank, "PMI_RANK", "HOROVOD_RANK", "SLURM_PROCID")
    return any(environ.get(name, "0") not in ("", "0") for name in names)


def _numbers_in(ranges: str) -> list[str]:
    found = []
    for one in ranges.split(","):
        low, _, high = one.partition("-")
        last = int(high) if high.isdecimal() else int(low)
        found += [f"{number:0{len(low)}d}" for number in range(int(low), last + 1)]
    return found


def is_openmpi(environ: Environ) -> bool:
    """Whether mpirun of Open MPI started this process."""
    return get(environ, OPENMPI.rank) is not None or get(environ, OPENMPI.world_size) is not None


def openmpi(environ: Environ) -> RankEnv:
    """A rank of mpirun.

    Open MPI gives no number of the node: OMPI_COMM_WORLD_NODE_RANK and OMPI_MCA_orte_ess_node_rank are both the rank on
    the node. What it gives per job, and alike on all nodes, is the PMIx name space.
    """
    found = numbers(environ, OPENMPI)
    check_numbers(OPENMPI, found)
    address = host_of(environ) or ("127.0.0.1" if found.world_size == found.local_world_size else None)
    if address is None:
        nodes = get(environ, "SLURM_JOB_NODELIST")
        raise ConfigError(
            f"{OPENMPI.world_size}={found.world_size}, {OPENMPI.local_world_size}={found.local_world_size}, and "
            "MASTER_ADDR is not set: ranks on several nodes meet at the host of rank 0, which Open MPI does not tell. "
            f"Use mpirun -x MASTER_ADDR={first_host(nodes) if nodes else '<host of rank 0>'}."
        )
    check_reachable(OPENMPI, found, address)
    job = get(environ, "PMIX_NAMESPACE") or get(environ, "OMPI_MCA_ess_base_jobid")
    return RankEnv(
        "openmpi",
        found.rank,
        found.local_rank,
        found.rank // found.local_world_size,
        found.world_size,
        found.local_world_size,
        address,
        port(environ, "MASTER_PORT", hashed_port(job) if job else None),
        restart_count=whole(environ, "SLURM_RESTART_COUNT", 0),
        run_id=job or "",
    )


def is_horovod(environ: Environ) -> bool:
    """Whether horovodrun --gloo started this process (horovodrun --mpi leaves Open MPI's variables)."""
    return get(environ, HOROVOD.rank) is not None or get(environ, HOROVOD.world_size) is not None


def horovod(environ: Environ) -> RankEnv:
    """A rank of horovodrun. Its rendezvous address is where horovodrun runs, by custom also the host of rank 0."""
    found = numbers(environ, HOROVOD)
    check_numbers(HOROVOD, found)
    rendezvous = bare_address(needed(environ, "HOROVOD_GLOO_RENDEZVOUS_ADDR", beside=HOROVOD.rank))
    taken = port(environ, "HOROVOD_GLOO_RENDEZVOUS_PORT")
    job = f"{rendezvous}:{taken}"
    free = hashed_port(job)
    address = host_of(environ) or rendezvous
    check_reachable(HOROVOD, found, address)
    master_port = port(environ, "MASTER_PORT", free + 1 if free == taken else free)
    if master_port == taken and address == rendezvous:
        raise ConfigError(
            f"MASTER_PORT={master_port}, HOROVOD_GLOO_RENDEZVOUS_PORT={taken}: Horovod's own rendezvous listens there. "
            "Export another MASTER_PORT, or unset it."
        )
    return RankEnv(
        "horovod",
        found.rank,
        found.local_rank,
        whole(environ, "HOROVOD_CROSS_RANK"),
        found.world_size,
        found.local_world_size,
        address,
        master_port,
        run_id=job,
    )


def is_plain(environ: Environ) -> bool:
    """Whether somebody set RANK or WORLD_SIZE by hand."""
    return get(environ, PLAIN.rank) is not None or get(environ, PLAIN.world_size) is not None


def plain(environ: Environ) -> RankEnv:
    """RANK and WORLD_SIZE set by hand, or by an operator that starts one process a pod."""
    needed(environ, PLAIN.world_size, beside=PLAIN.rank)
    needed(environ, PLAIN.rank, beside=PLAIN.world_size)
    rank, size = whole(environ, PLAIN.rank), whole(environ, PLAIN.world_size)
    address = host_of(environ) or ("127.0.0.1" if size <= 1 else None)
    if address is None:
        raise ConfigError(
            f"WORLD_SIZE={size}, and MASTER_ADDR is not set: the ranks meet at the host of rank 0. "
            "Export MASTER_ADDR=<host of rank 0>."
        )
    found = Numbers(rank, size, *_plain_local(environ, rank, size, address))
    check_numbers(PLAIN, found)
    check_reachable(PLAIN, found, address)
    return RankEnv(
        "env",
        rank,
        found.local_rank,
        whole(environ, "GROUP_RANK", rank // found.local_world_size),
        size,
        found.local_world_size,
        address,
        port(environ, "MASTER_PORT", 0 if size == 1 else None),
    )


def _plain_local(environ: Environ, rank: int, size: int, address: str) -> tuple[int, int]:
    """LOCAL_RANK and LOCAL_WORLD_SIZE, or what follows for certain: a guess would put a node's ranks on one GPU."""
    one_node = size <= 1 or is_loopback(address)  # behind localhost there is only this node
    local_size = whole(environ, PLAIN.local_world_size, size if one_node else -1)
    certain = 0 if local_size == 1 else rank if local_size == size else -1
    local_rank = whole(environ, PLAIN.local_rank, certain)
    if local_rank < 0 or local_size < 0:
        missing = [name for name in (PLAIN.local_rank, PLAIN.local_world_size) if get(environ, name) is None]
        raise ConfigError(
            f"RANK={rank}, WORLD_SIZE={size}, MASTER_ADDR={address}, and {' and '.join(missing)} not set: nothing says "
            "which of its node's GPUs this rank takes. For one process per node export LOCAL_RANK=0 LOCAL_WORLD_SIZE=1."
        )
    if local_size == size and local_rank != rank:
        raise ConfigError(
            f"RANK={rank}, LOCAL_RANK={local_rank}, MASTER_ADDR={address}: where all ranks are on one node (as behind "
            "localhost), both are the same. For several nodes export MASTER_ADDR and LOCAL_WORLD_SIZE."
        )
    return local_rank, local_size
