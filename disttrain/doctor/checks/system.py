"""Limits of the machine, the user or the container that a training hits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def _thread_number(facts: Facts) -> Iterator[Found]:
    text = facts.environ.get("OMP_NUM_THREADS")
    if text is not None and _whole(text) is None:
        yield Found("fail", f"OMP_NUM_THREADS={text}")


def _threads(everyone: Sequence[Facts]) -> Iterator[Found]:
    for host, here in _by_host(everyone).items():
        counts = [_whole(one.environ.get("OMP_NUM_THREADS", "")) for one in here]
        told = [count for count in counts if count is not None]
        if len(told) == len(here):
            most = here[0].ranks_here // len(here) * sum(told)
            cores = usable_cores(here)
            beyond = most > cores and max(told) > 1
            shown = f"OMP_NUM_THREADS={max(told)} for {several(here[0].ranks_here, 'rank')} on {_cores(cores)}"
            yield Found("warn" if beyond else "ok", shown, (host,))


def _quota(facts: Facts) -> Iterator[Found]:
    quota, cores = facts.system.quota, len(facts.system.cpus)
    if quota is None or quota >= cores:
        yield Found("ok", _cores(cores))
        return
    told = facts.environ.get("OMP_NUM_THREADS") is not None
    status: Status = "warn" if quota < 1 or not told else "ok"
    yield Found(status, f"the container may use {quota:g} of the {_cores(cores)} that it sees")


def _ranks_per_core(everyone: Sequence[Facts]) -> Iterator[Found]:
    for host, here in _by_host(everyone).items():
        cores, ranks = usable_cores(here), here[0].ranks_here
        yield Found("warn" if ranks > max(cores, 1) else "ok", f"{several(ranks, 'rank')} on {_cores(cores)}", (host,))


def usable_cores(here: Sequence[Facts]) -> float:
    """What the masks of the processes of one host and the container leave. Launchers bind each rank to its own part."""
    seen = {cpu for one in here for cpu in one.system.cpus}
    return min(len(seen), here[0].system.quota or len(seen))


def _cores(count: float) -> str:
    return f"{count:g} {'core' if count == 1 else 'cores'}"


def _by_host(everyone: Sequence[Facts]) -> dict[str, list[Facts]]:
    hosts: dict[str, list[Facts]] = {}
    for one in everyone:
        hosts.setdefault(one.host, []).append(one)
    return hosts


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


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
        "thread-number",
        "OMP_NUM_THREADS is a number of at least 1.",
        "Unset it, or export cores divided by ranks.",
        rank=_thread_number,
        of_node=False,
    ),
    Check(
        "threads",
        "All ranks of a node together have no more threads than cores.",
        "Unset OMP_NUM_THREADS, or export cores divided by ranks.",
        job=_threads,
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
        job=_ranks_per_core,
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
