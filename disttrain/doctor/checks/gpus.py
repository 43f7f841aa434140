"""GPUs that are not there, not free, not healthy, or not alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from disttrain.doctor.checks.units import several, size
from disttrain.doctor.facts.model import Facts, Gpu
from disttrain.doctor.finding import Check, Found

_BUSY = 1 << 30
_BY_RANK = ("torchrun", "none")  # launchers under which all ranks of a node see the same GPUs


def _wanted(facts: Facts) -> bool:
    return facts.wanted.device != "cpu"


def _there(facts: Facts) -> Iterator[Found]:
    gpus, must = facts.gpus, facts.wanted.device == "cuda"
    if not _wanted(facts):
        yield Found("ok", "train.device=cpu: GPUs are not looked at")
    elif gpus.error is not None:
        yield Found("fail" if must else "warn", f"{gpus.devices} GPU devices, and nobody can be asked: {gpus.error}")
    elif not gpus.all:
        yield Found("fail" if must else "ok", "no GPU and no driver" if must else "no GPU: ranks compute on the CPU")
    elif gpus.visible is not None and not gpus.visible:
        yield Found("fail" if must else "warn", f"{len(gpus.all)} GPUs, and CUDA_VISIBLE_DEVICES hides all of them")
    else:
        seen = f", {len(gpus.visible)} visible" if gpus.visible is not None else ""
        names = ", ".join(f"{count} x {name}" for name, count in Counter(one.name for one in gpus.all).items())
        yield Found("ok", f"{names}{seen}")


def _enough(facts: Facts) -> Iterator[Found]:
    visible = facts.gpus.visible
    if not visible or not _wanted(facts):
        return
    ranks = facts.ranks_here
    own = len(visible) == 1 and facts.launcher not in _BY_RANK  # each task may see a GPU of its own
    short = len(visible) < ranks and not own
    yield Found(
        "fail" if short else "ok", f"{several(ranks, 'rank')} on a node that shows {several(len(visible), 'GPU')}"
    )


def _named(facts: Facts) -> Iterator[Found]:
    named = facts.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None or not facts.gpus.all or not _wanted(facts):
        return
    wrong = facts.gpus.unknown
    yield Found(
        "fail" if wrong else "ok", f"CUDA_VISIBLE_DEVICES={named}" + (f": there is no {wrong[0]}" if wrong else "")
    )


def _free(facts: Facts) -> Iterator[Found]:
    for number, one in _mine(facts):
        busy = (one.memory_used or 0) > _BUSY or (one.processes or 0) > 0
        if busy:
            used, most = size(one.memory_used or 0), size(one.memory or 0)
            yield Found("warn", f"GPU {number}: {one.processes or 0} processes, {used} of {most} in use")
    if _mine(facts) and not any((one.memory_used or 0) > _BUSY or one.processes for _, one in _mine(facts)):
        yield Found("ok", "no other process on them")


def _healthy(facts: Facts) -> Iterator[Found]:
    known = False
    for number, one in _mine(facts):
        known |= one.uncorrected_errors is not None or one.remap is not None
        if one.remap == "failed":
            yield Found("fail", f"GPU {number}: rows of its memory could not be remapped")
        elif one.remap == "pending":
            yield Found(
                "warn", f"GPU {number}: rows of its memory are remapped at the next reset", (), "Have the GPU reset."
            )
        elif one.uncorrected_errors:
            yield Found(
                "warn", f"GPU {number}: {one.uncorrected_errors} uncorrected ECC errors since the driver was loaded"
            )
    if known and not any(one.remap or one.uncorrected_errors for _, one in _mine(facts)):
        yield Found("ok", "no uncorrected ECC errors")


def _slowed(facts: Facts) -> Iterator[Found]:
    for number, one in _mine(facts):
        if one.slowed:
            yield Found("warn", f"GPU {number} runs below its clocks: {', '.join(one.slowed)}")
    if _mine(facts) and not any(one.slowed for _, one in _mine(facts)):
        yield Found("ok", "at full clocks")


def _links(facts: Facts) -> Iterator[Found]:
    mine = _mine(facts)
    if len(mine) < 2:
        return
    if facts.gpus.far:
        yield Found(
            "warn", f"pairs {', '.join(facts.gpus.far[:8])} reach each other only over the processors' own link"
        )
    else:
        linked = all(one.links for _, one in mine)
        yield Found("ok", "NVLink between them" if linked else "PCIe between them, within one processor's part")


def _alike(everyone: Sequence[Facts]) -> Iterator[Found]:
    kinds: dict[str, list[str]] = {}
    for facts in everyone:
        for _, one in _mine(facts):
            kinds.setdefault(f"{one.name}, {size(one.memory or 0)}", []).append(facts.host)
    if len(kinds) == 1:
        yield Found("ok", f"all are {next(iter(kinds))}")
    if len(kinds) > 1:
        usual = max(kinds, key=lambda kind: len(kinds[kind]))
        for kind, hosts in kinds.items():
            if kind != usual:
                yield Found("warn", f"{kind}, where others are {usual}", tuple(dict.fromkeys(hosts)))


def _own(everyone: Sequence[Facts]) -> Iterator[Found]:
    takers: dict[tuple[str, str], list[int]] = {}
    for facts in everyone:
        visible = facts.gpus.visible
        if visible and _wanted(facts) and facts.ranks_here == facts.local_world_size:
            takers.setdefault((facts.host, visible[facts.local_rank % len(visible)]), []).append(facts.rank)
    for (host, uuid), ranks in takers.items():
        if len(ranks) > 1:
            yield Found("fail", f"ranks {', '.join(map(str, ranks))} would all compute on {uuid}", (host,))
    if takers and all(len(ranks) == 1 for ranks in takers.values()):
        yield Found("ok", "a GPU of its own for each rank")


def _mine(facts: Facts) -> list[tuple[int, Gpu]]:
    gpus = facts.gpus
    if not _wanted(facts) or gpus.all is None:
        return []
    chosen = gpus.visible
    return [(n, one) for n, one in enumerate(gpus.all) if chosen is None or one.uuid in chosen]


CHECKS = [
    Check(
        "gpus",
        "NVML sees GPUs where train.device wants them.",
        "Look at nvidia-smi. In a container: docker --gpus all, apptainer --nv, a GPU in the pod's limits. Or "
        "train.device=cpu.",
        node=_there,
    ),
    Check(
        "gpus-enough",
        "Each rank of a node has a GPU of its own.",
        "Start fewer ranks on a node, or ask for more GPUs.",
        node=_enough,
    ),
    Check(
        "visible-devices",
        "CUDA_VISIBLE_DEVICES names GPUs that are there.",
        "Unset it, or count from 0 to the number of GPUs less one. CUDA drops all entries behind a wrong one.",
        rank=_named,
        of_node=False,
    ),
    Check(
        "gpus-free",
        "No other process uses the GPUs.",
        "End the process that nvidia-smi shows, or take another GPU with CUDA_VISIBLE_DEVICES.",
        node=_free,
    ),
    Check(
        "gpu-memory-errors",
        "The GPUs' memory has no uncorrected errors.",
        "Reset or replace the GPU; drain the node until then.",
        node=_healthy,
    ),
    Check(
        "gpu-clocks",
        "No GPU is slowed down by heat or by its power supply.",
        "Look at cooling and power of the node: nvidia-smi -q -d PERFORMANCE. All ranks wait for the slowest.",
        node=_slowed,
    ),
    Check(
        "gpu-links",
        "The GPUs of a node are joined by NVLink, or by PCIe of one processor.",
        "Ask for GPUs of one processor, or a node with NVLink: nvidia-smi topo -m shows how they are joined.",
        node=_links,
    ),
    Check(
        "gpus-alike",
        "All GPUs of the job are of one kind.",
        "Ask for one kind (srun --constraint, a node selector): all ranks wait for the slowest.",
        job=_alike,
    ),
    Check(
        "gpu-own",
        "No two ranks compute on one GPU.",
        "Start fewer ranks, or bind one GPU to each (srun --gpus-per-task=1).",
        job=_own,
        of_node=False,
    ),
]
