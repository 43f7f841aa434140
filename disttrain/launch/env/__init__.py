"""Which rank this process is, whichever launcher started it. The only reader of rank variables in the project.

`resolve` answers one of three things: a `RankEnv` (this process is one rank), a `NodeEnv` (this process is one node of
a Kubernetes job and an elastic agent must start its ranks), or None (nothing started this process with others).
Whatever does not fit together is refused here, before any process group exists and waits for a peer that never comes.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, MutableMapping

from disttrain.errors import ConfigError
from disttrain.launch.env import launchers as by
from disttrain.launch.env.launchers import AGENT_VARIABLE, JOB_VARIABLE, ROUND_VARIABLE
from disttrain.launch.env.model import NodeEnv, RankEnv
from disttrain.launch.env.mpich import is_mpich, mpich
from disttrain.launch.env.pod import is_pod, pod
from disttrain.launch.env.reading import OPENMPI, PLAIN, Environ, bare_address, check_agreement, get, is_loopback, whole

__all__ = [
    "AGENT_VARIABLE", "JOB_VARIABLE", "ROUND_VARIABLE", "NodeEnv", "RankEnv", "agent_environ", "bare_address",
    "is_loopback", "limit_name_lookups", "resolve", "torchrun_environ",
]  # fmt: skip

# In order of precedence: a launcher stands before those inside which it is started.
_LAUNCHERS: dict[str, tuple[Callable[[Environ], bool], Callable[[Environ], RankEnv | NodeEnv]]] = {
    "torchrun": (by.is_torchrun, by.torchrun),
    "horovod": (by.is_horovod, by.horovod),
    "openmpi": (by.is_openmpi, by.openmpi),
    "mpich": (is_mpich, mpich),
    "slurm": (by.is_slurm_step, by.slurm),
    "pytorchjob": (is_pod, pod),
    "env": (by.is_plain, by.plain),
}


def limit_name_lookups(environ: MutableMapping[str, str]) -> None:
    """Ask a name server again after one second instead of five, where the user has not said otherwise.

    torch looks up the name of the peer at both ends of every connection that it opens: a start makes dozens of them,
    and each lost answer would hold it up (resolv.conf(5)).
    """
    environ.setdefault("RES_OPTIONS", "timeout:1 attempts:5")


def resolve(environ: Environ) -> RankEnv | NodeEnv | None:
    """Which rank (or node) this process is; None without any launcher. Raises ConfigError where variables disagree."""
    found = [name for name, (is_here, _) in _LAUNCHERS.items() if is_here(environ)]
    if not found:
        return None
    name = found[0]
    if name in ("horovod", "openmpi", "mpich", "slurm") and "pytorchjob" in found:
        raise ConfigError(
            f"PET_* variables are set beside those of {name}: they ask for an elastic agent on this node, which "
            f"{name} does not start. Unset the PET_* variables, or start torchrun under {name}."
        )
    if name in ("horovod", "openmpi", "mpich") and "slurm" in found:
        _check_called_once(environ, name)
    result = _on_this_machine(_LAUNCHERS[name][1](environ))
    if isinstance(result, RankEnv) and name in ("horovod", "openmpi", "mpich", "slurm"):
        check_agreement(environ, result, PLAIN)
        if "openmpi" in found[1:]:
            check_agreement(environ, result, OPENMPI)
    return _named(environ, result) if isinstance(result, RankEnv) else result


def _named(environ: Environ, found: RankEnv) -> RankEnv:
    """With the job's name, and how often Slurm has requeued it."""
    requeues = whole(environ, "SLURM_RESTART_COUNT", 0)
    return dataclasses.replace(found, job_id=found.job_id or get(environ, JOB_VARIABLE) or "", requeues=requeues)


def _on_this_machine(found: RankEnv | NodeEnv) -> RankEnv | NodeEnv:
    """Ranks that are all on one machine meet at its loopback address, where they would by its own name: that need not
    be known to any name server."""
    if isinstance(found, NodeEnv):
        return found
    alone = found.on_one_machine and not found.agent_store
    own = found.master_addr.lower() in (socket.gethostname().lower(), socket.gethostname().partition(".")[0].lower())
    return dataclasses.replace(found, master_addr="127.0.0.1") if alone and own else found


def _check_called_once(environ: Environ, launcher: str) -> None:
    """Refuse `srun -n4 mpirun ...`: each of the tasks would start all ranks.

    In the ranks of a legitimate mpirun the step is that of mpirun's own daemons, one per remote node, or of the one
    task that called it. horovodrun goes over ssh, so that only the latter remains.
    """
    tasks = by.slurm(environ).local_world_size if launcher in ("openmpi", "mpich") else by.slurm(environ).world_size
    if tasks > 1:
        raise ConfigError(
            f"SLURM_STEP_ID={whole(environ, 'SLURM_STEP_ID')} has {tasks} tasks, and {launcher} variables are set: "
            f"each task has called {launcher} for itself. Call it once, in the batch script, or use srun alone."
        )


def agent_environ(environ: Environ) -> dict[str, str]:
    """`environ` without PET_*: torchrun reads each as an option, and dies of a PyTorchJob's empty PET_STANDALONE."""
    return {name: value for name, value in environ.items() if not name.startswith("PET_")}


def torchrun_environ(environ: Environ, auto_worker_count: Callable[[], int]) -> dict[str, str]:
    """`environ` with PET_* as torchrun takes them: a number for `auto`, 1 for the operator's empty PET_STANDALONE."""
    cleaned = dict(environ)
    if cleaned.get("PET_STANDALONE") == "":
        cleaned["PET_STANDALONE"] = "1"
    if cleaned.get("PET_NPROC_PER_NODE") == "auto":
        cleaned["PET_NPROC_PER_NODE"] = str(auto_worker_count())
    return cleaned
