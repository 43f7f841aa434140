"""Limits of the machine, the user or the container that a training hits."""

from __future__ import annotations

from collections.abc import Iterator

from disttrain.doctor.checks.units import several, size
from disttrain.doctor.facts.model import Facts
from disttrain.doctor.finding import Check, Found, Status

_MIB, _GIB = 1 << 20, 1 << 30
_SHM_LEAST, _SHM_PER_RANK = 32 * _MIB, 128 * _MIB
_FILES_LEAST, _FILES_ENOUGH = 1024, 4096
_MEMORY_LEAST, _MEMORY_PER_RANK = 256 * _MIB, _GIB


def _shm(facts: Facts) -> Iterator[Found]:
    free, whole, ranks = facts.system.shm_free, facts.system.shm_size, facts.ranks_here
    if free is None or whole is None:
        yield Found("fail", "there is no /dev/shm")
        return
    status: Status = "fail" if free < _SHM_LEAST else "warn" if free < _SHM_PER_RANK * ranks else "ok"
    yield Found(status, f"/dev/shm has {size(free)} free of {size(whole)}, for {several(ranks, 'rank')}")


def _files(facts: Facts) -> Iterator[Found]:
    limit = facts.system.open_files
    status: Status = "ok" if limit is None or limit >= _FILES_ENOUGH else "warn" if limit >= _FILES_LEAST else "fail"
    yield Found(status, f"ulimit -Hn is {'unlimited' if limit is None else limit}")


def _locked(facts: Facts) -> Iterator[Found]:
    limit, devices = facts.system.locked_memory, facts.network.infiniband
    if devices:
        shown = "unlimited" if limit is None else size(limit)
        yield Found("ok" if limit is None else "warn", f"ulimit -Hl is {shown}, InfiniBand: {', '.join(devices)}")


def _threads(facts: Facts) -> Iterator[Found]:
    cores, text = usable_cores(facts), facts.environ.get("OMP_NUM_THREADS")
    if text is None:
        return
    if not text.isdecimal() or int(text) < 1:
        yield Found("fail", f"OMP_NUM_THREADS={text}")
        return
    ranks = facts.ranks_here if facts.system.cores >= facts.ranks_here else 1
    beyond = int(text) * ranks > cores and int(text) > 1
    yield Found("warn" if beyond else "ok", f"OMP_NUM_THREADS={text} for {several(ranks, 'rank')} on {cores:g} cores")


def _quota(facts: Facts) -> Iterator[Found]:
    quota, cores = facts.system.quota, facts.system.cores
    if quota is None or quota >= cores:
        yield Found("ok", several(cores, "core"))
        return
    told = facts.environ.get("OMP_NUM_THREADS") is not None
    status: Status = "warn" if quota < 1 or not told else "ok"
    yield Found(status, f"the container may use {quota:g} of the {cores} cores that it sees")


def _ranks_per_core(facts: Facts) -> Iterator[Found]:
    cores, ranks = usable_cores(facts), facts.ranks_here
    if ranks > 1:
        yield Found("warn" if ranks > cores else "ok", f"{several(ranks, 'rank')} on {cores:g} cores")


def usable_cores(facts: Facts) -> float:
    """What the mask and the container leave."""
    return min(facts.system.cores, facts.system.quota or facts.system.cores)


def _memory(facts: Facts) -> Iterator[Found]:
    free, ranks = facts.system.memory_available, facts.ranks_here
    if free is None:
        return
    status: Status = "fail" if free < _MEMORY_LEAST * ranks else "warn" if free < _MEMORY_PER_RANK * ranks else "ok"
    yield Found(status, f"{size(free)} of memory available, for {several(ranks, 'rank')}")


def _tmp(facts: Facts) -> Iterator[Found]:
    error = facts.system.tmp_error
    yield Found("fail" if error else "ok", f"{facts.system.tmp}: {error or 'writable'}")


CHECKS = [
    Check(
        "shared-memory",
        "/dev/shm has 128 MiB for each rank: loader processes and NCCL exchange through it.",
        "docker --shm-size=8g (or --ipc=host), in a pod a memory-backed emptyDir at /dev/shm; remove what others"
        " left there. Or data.loader_workers=0.",
        node=_shm,
    ),
    Check(
        "open-files",
        "A process may open 4,096 files.",
        "Raise it: ulimit -n, LimitNOFILE of the service, docker --ulimit nofile=65536.",
        node=_files,
    ),
    Check(
        "locked-memory",
        "With InfiniBand a process may lock memory without limit.",
        "ulimit -l unlimited; LimitMEMLOCK=infinity for slurmd; docker --ulimit memlock=-1.",
        node=_locked,
    ),
    Check(
        "threads",
        "OMP_NUM_THREADS is a number, and all ranks together have no more threads than cores.",
        "Unset it, or export cores divided by ranks.",
        node=_threads,
        of_node=False,
    ),
    Check(
        "container-cores",
        "A container may use the cores that it sees, or is told by OMP_NUM_THREADS how many threads to start.",
        "export OMP_NUM_THREADS=<cores of the limit divided by ranks>, or raise the container's CPU limit.",
        node=_quota,
    ),
    Check(
        "ranks-per-core",
        "A node has a core for each rank.",
        "Start fewer ranks on a node, or ask for more cores (--cpus-per-task, the pod's CPU limit).",
        node=_ranks_per_core,
    ),
    Check(
        "memory",
        "1 GiB of memory is available for each rank, container limits counted.",
        "Ask for more memory (--mem, the pod's limit), start fewer ranks, or end what uses it.",
        node=_memory,
    ),
    Check(
        "temporary-files",
        "The folder for temporary files can be written.",
        "export TMPDIR=<a folder with space>, or make room there.",
        node=_tmp,
    ),
]
