"""All facts of one process."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from disttrain.config import Config
from disttrain.doctor.facts.disk import find_disk
from disttrain.doctor.facts.gpus import find_gpus
from disttrain.doctor.facts.model import Facts, Wanted
from disttrain.doctor.facts.network import find_network
from disttrain.doctor.facts.system import find_system
from disttrain.doctor.facts.versions import find_versions, import_torch
from disttrain.errors import DisttrainError
from disttrain.launch.env import RankEnv

_PREFIXES = ("NCCL_", "GLOO_", "TORCH_", "CUDA_", "CUDNN_", "PYTORCH_", "HOROVOD_")
_NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Request:
    """What is to be looked at.

    Args:
        load: reads the config for a number of ranks; None where none was named.
        job: only what a job needs on every node, and quickly: torch is not imported.
        wait_s: how long rank zero waits for the others.
        ranks_per_node: how many will train on a node, where the doctor itself has one process there.
    """

    config: str | None = None
    load: Callable[[int], Config] | None = None
    run_dir: Path | None = None
    job: bool = False
    wait_s: float = 30.0
    ranks_per_node: int | None = None


def gather(request: Request, env: RankEnv, launch_error: str | None, environ: Mapping[str, str] = os.environ) -> Facts:
    """What this process knows. Of what is the same for all ranks of a node, only the first one looks at disks."""
    wanted, config = _read_config(request, env)
    first = env.local_rank == 0
    gpus, driver = find_gpus(environ)
    versions = find_versions(with_mpi=first and (not request.job or wanted.backend == "horovod"))
    found = {**versions.found, **({"driver": driver["driver"]} if "driver" in driver else {})}
    return Facts(
        host=socket.gethostname(),
        launcher=env.launcher,
        launch_error=launch_error,
        rank=env.rank,
        local_rank=env.local_rank,
        world_size=env.world_size,
        local_world_size=env.local_world_size,
        ranks_here=request.ranks_per_node or env.local_world_size,
        master_addr=env.master_addr,
        master_port=env.master_port,
        environ={name: value for name, value in environ.items() if name in _NAMES or name.startswith(_PREFIXES)},
        wanted=wanted,
        versions=versions.model_copy(
            update={
                "found": found,
                "driver_cuda": driver.get("driver_cuda"),
                "torch_error": None if request.job or "torch" not in found else import_torch(),
            }
        ),
        gpus=gpus,
        network=find_network(env),
        system=find_system(),
        disk=find_disk(request.run_dir if first else None, config if first else None),
    )


def _read_config(request: Request, env: RankEnv) -> tuple[Wanted, Config | None]:
    if request.load is None:
        return Wanted(), None
    try:
        config = request.load(env.world_size if request.ranks_per_node is None else 1)
    except DisttrainError as error:
        return Wanted(config=request.config, config_error=str(error)), None
    return (
        Wanted(
            config=request.config,
            device=config.train.device,
            backend=config.train.backend,
            notice_s=config.checkpoint.notice_s,
            keep=config.checkpoint.keep,
            loader_workers=config.data.loader_workers,
        ),
        config,
    )


def hosts_by_rank(env: RankEnv, hosts: Sequence[str]) -> dict[int, str]:
    """Each rank's host where a launcher names the hosts in order, and each has as many ranks; else nothing."""
    if len(hosts) * env.local_world_size != env.world_size:
        return {}
    return {rank: hosts[rank // env.local_world_size] for rank in range(env.world_size)}
