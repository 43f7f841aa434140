"""The config and the environment variables: what contradicts itself, or makes a training slow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from disttrain.doctor.facts.model import Facts
from disttrain.doctor.finding import Check, Found

_SLOW: Mapping[str, tuple[tuple[str, ...], str]] = {
    "CUDA_LAUNCH_BLOCKING": (("1",), "the CPU waits for every kernel"),
    "TORCH_DISTRIBUTED_DEBUG": (("DETAIL",), "every collective is checked against all ranks first"),
    "NCCL_P2P_DISABLE": (("1",), "GPUs of a node exchange through memory, not by NVLink or PCIe"),
    "NCCL_SHM_DISABLE": (("1",), "ranks of a node exchange by the network"),
    "NCCL_NET_GDR_LEVEL": (("0", "LOC"), "data to other nodes goes through memory"),
    "PYTORCH_NO_CUDA_MEMORY_CACHING": (("1",), "every tensor asks the driver for memory"),
    "CUDNN_DETERMINISTIC": (("1",), "cuDNN takes slower algorithms"),
}
_SAME = (
    "NCCL_ALGO", "NCCL_PROTO", "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_NET",
    "NCCL_CUMEM_ENABLE", "NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS", "NCCL_BUFFSIZE", "TORCH_DISTRIBUTED_DEBUG",
    "HOROVOD_FUSION_THRESHOLD", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip


def _config(facts: Facts) -> Iterator[Found]:
    wanted = facts.wanted
    if wanted.config is not None:
        yield Found("fail" if wanted.config_error else "ok", wanted.config_error or wanted.config)


def _launch(facts: Facts) -> Iterator[Found]:
    if facts.launch_error is not None:
        yield Found("fail", facts.launch_error)
    elif facts.world_size == 1:
        yield Found(
            "ok", "one process, started by itself" if facts.launcher == "none" else f"one rank, by {facts.launcher}"
        )
    elif facts.rank == 0:
        yield Found("ok", f"{facts.world_size} ranks, {facts.local_world_size} on this node, by {facts.launcher}")


def _infiniband(facts: Facts) -> Iterator[Found]:
    off = facts.environ.get("NCCL_IB_DISABLE") == "1"
    if facts.network.infiniband and off and not facts.on_one_machine:
        yield Found("warn", f"NCCL_IB_DISABLE=1, and there is InfiniBand: {', '.join(facts.network.infiniband)}")


def _slow(facts: Facts) -> Iterator[Found]:
    for name, (values, why) in _SLOW.items():
        value = facts.environ.get(name, "")
        if value.upper() in values:
            yield Found("warn", f"{name}={value}: {why}")


def _hang(facts: Facts) -> Iterator[Found]:
    for name in ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "NCCL_ASYNC_ERROR_HANDLING"):
        if facts.environ.get(name) == "0":
            yield Found("warn", f"{name}=0")


def _same(everyone: Sequence[Facts]) -> Iterator[Found]:
    if len(everyone) < 2:
        return
    agreed = True
    for name in _SAME:
        values: dict[str, list[str]] = {}
        for one in everyone:
            values.setdefault(one.environ.get(name, "not set"), []).append(str(one.rank))
        if len(values) > 1:
            agreed = False
            shown = "; ".join(f"{value} on rank {', '.join(ranks[:8])}" for value, ranks in sorted(values.items()))
            yield Found("fail" if name in ("NCCL_ALGO", "NCCL_PROTO") else "warn", f"{name} is {shown}")
    if agreed:
        yield Found("ok", "the same on all ranks")


CHECKS = [
    Check(
        "config",
        "The config and its overrides are valid for this number of ranks.",
        "Correct the field that is named: disttrain train --help-config describes all.",
        rank=_config,
        of_node=False,
    ),
    Check(
        "launch-variables",
        "The variables by which launchers number the ranks agree with each other.",
        "Leave them to one launcher: unset those of another one, or that an earlier shell has left.",
        rank=_launch,
        of_node=False,
    ),
    Check(
        "infiniband",
        "InfiniBand, where there is any, is not switched off.",
        "Unset NCCL_IB_DISABLE.",
        node=_infiniband,
        of_node=False,
    ),
    Check(
        "slow-variables",
        "No variable is set that makes every step slow: they are for finding faults.",
        "Unset it for trainings.",
        node=_slow,
        of_node=False,
    ),
    Check(
        "hang-variables",
        "torch may end a rank whose NCCL operation has failed.",
        "Unset it: else a lost peer leaves the others waiting.",
        node=_hang,
        of_node=False,
    ),
    Check(
        "same-variables",
        "Variables that all ranks must have alike are alike.",
        "Export them on all nodes or on none (mpirun -x, srun --export).",
        job=_same,
        of_node=False,
    ),
]
