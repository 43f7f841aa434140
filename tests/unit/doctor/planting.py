"""Facts of machines on which all is well, and how to plant a fault in them."""

from __future__ import annotations

from typing import Any

from disttrain.doctor.checks import CHECKS
from disttrain.doctor.facts.model import Disk, Facts, Gpu, Gpus, Job, Network, System, Versions, Wanted
from disttrain.doctor.finding import Finding, judge

MIB, GIB = 1 << 20, 1 << 30
VERSIONS = {
    "python": "3.11.7", "disttrain": "0.1.0", "torch": "2.9.1+cu128", "torchvision": "0.24.1+cu128", "cuda": "12.8",
    "nccl": "2.27.5", "numpy": "2.1.0", "driver": "570.86.15", "ray": "2.40.0", "horovod": "0.28.1",
}  # fmt: skip


def gpu(number: int, host: str) -> Gpu:
    return Gpu(
        uuid=f"GPU-{host}-{number}",
        name="H100",
        memory=80 * GIB,
        memory_used=0,
        processes=0,
        uncorrected_errors=0,
        links=18,
    )


def rank(number: int, nodes: int = 2, ranks_per_node: int = 2) -> Facts:
    """A rank of a healthy job of `nodes` nodes with two GPUs each."""
    host, local_rank = f"node{number // ranks_per_node + 1}", number % ranks_per_node
    gpus = [gpu(index, host) for index in range(2)]
    world_size = nodes * ranks_per_node
    return Facts(
        host=host,
        launcher="torchrun" if world_size > 1 else "none",
        rank=number,
        local_rank=local_rank,
        world_size=world_size,
        local_world_size=ranks_per_node,
        ranks_here=ranks_per_node,
        master_addr="node1",
        master_port=29500,
        environ={"OMP_NUM_THREADS": "4", "MASTER_ADDR": "node1", "CUDA_VISIBLE_DEVICES": "0,1"},
        wanted=Wanted(config="config.yaml", device="cuda"),
        versions=Versions(
            found=VERSIONS,
            driver_cuda="12.8",
            pins={"nvidia-nccl-cu12": ("2.27.5", "2.27.5")},
            mpi="Open MPI 4",
            horovod_mpi="Open MPI",
        ),
        gpus=Gpus(devices=2, all=gpus, visible=[one.uuid for one in gpus]),
        network=Network(
            interfaces={"lo": True, "eth0": True, "docker0": True, "ib0": False},
            towards="eth0" if nodes > 1 else None,
            lookup_s=0.01,
        ),
        system=System(
            cpus=list(range(16)), memory_available=64 * GIB, shm_size=32 * GIB, shm_free=32 * GIB, open_files=65536,
            tmp="/tmp",
        ),
        disk=Disk(
            run_dir="/runs/a", file_system="nfs4", free=500 * GIB, write_speed=5e8, checkpoint=GIB, data="/data/x.zip"
        ) if local_rank == 0 else Disk(),
        job=Job(met=world_size > 1, backend="nccl", allreduce_s={4096: 1e-4, 32 * MIB: 0.01}) if number == 0 else Job(),
        clock_offset_s=0.001 if number == ranks_per_node else None,
    )  # fmt: skip


def job(nodes: int = 2, ranks_per_node: int = 2) -> list[Facts]:
    """All ranks, as an examination orders them."""
    everyone = [rank(number, nodes, ranks_per_node) for number in range(nodes * ranks_per_node)]
    return sorted(everyone, key=lambda one: (one.local_rank, one.rank))


def planted(facts: Facts, values: dict[str, Any]) -> Facts:
    """The facts with other values, by paths like `system.shm_free` or `environ.NCCL_ALGO` (None: without it)."""
    content = facts.model_dump()
    for path, value in values.items():
        place = content
        *way, name = path.split(".")
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        if value is None and way[-1:] == ["environ"]:
            place.pop(name, None)
        else:
            place[name] = value
    return Facts.model_validate(content)


def plant(everyone: list[Facts], host: str, values: dict[str, Any]) -> list[Facts]:
    """The fault on one host, or with host `*` everywhere."""
    return [planted(one, values) if host in ("*", one.host) else one for one in everyone]


def wrong(everyone: list[Facts]) -> list[Finding]:
    """What is not `ok`."""
    return [one for one in judge(CHECKS, everyone) if one.status != "ok"]
