"""Pods of the Kubeflow operators: the PyTorchJob of training-operator v1 and the TrainJob of trainer v2.

Both set PET_* variables, torchrun's own options. PyTorchJob adds MASTER_ADDR, RANK and WORLD_SIZE, where RANK counts
pods while WORLD_SIZE is pods x nprocPerNode: only with one process a pod do the two belong to the same process.
"""

from __future__ import annotations

import re

from disttrain.errors import ConfigError
from disttrain.launch.env.model import NodeEnv, RankEnv
from disttrain.launch.env.reading import (
    PLAIN,
    Environ,
    Numbers,
    bare_address,
    check_numbers,
    check_reachable,
    get,
    needed,
    port,
    whole,
)

_SIGNS = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_RDZV_ENDPOINT", "PET_MASTER_ADDR")


def is_pod(environ: Environ) -> bool:
    """Whether an operator set this pod's variables."""
    return "PET_STANDALONE" in environ or any(get(environ, name) is not None for name in _SIGNS)


def pod(environ: Environ) -> RankEnv | NodeEnv:
    """One rank where the operator's RANK is a process, else a node for whose ranks an elastic agent is needed."""
    nodes = get(environ, "PET_NNODES") or "1"
    most = _most_nodes(nodes)
    processes = _processes(environ)
    restarts = whole(environ, "PET_MAX_RESTARTS", 0)
    given = _same(environ, "PET_MASTER_ADDR", "MASTER_ADDR")
    address = given and bare_address(given)
    endpoint = get(environ, "PET_RDZV_ENDPOINT")
    if _is_standalone(environ):
        if most > 1:
            raise ConfigError(
                f"PET_STANDALONE is set, PET_NNODES={nodes}: standalone is for one node. "
                "Take standalone out of the job's elasticPolicy, or ask for one worker."
            )
        return NodeEnv("1", processes, max_restarts=restarts, standalone=True)
    if endpoint:  # decides also where a Master replica is there too: torchrun looks at it first
        backend = get(environ, "PET_RDZV_BACKEND") or "c10d"
        return NodeEnv(
            nodes,
            processes,
            node_rank=whole(environ, "PET_NODE_RANK") if backend == "static" else None,
            rdzv_backend=backend,
            rdzv_endpoint=endpoint,
            rdzv_id=get(environ, "PET_RDZV_ID"),
            rdzv_conf=get(environ, "PET_RDZV_CONF"),
            max_restarts=restarts,
        )
    if address is None and most == 1:
        return NodeEnv("1", processes, max_restarts=restarts, standalone=True)
    if address is None or nodes != str(most):
        missing = "neither MASTER_ADDR nor PET_RDZV_ENDPOINT is" if address is None else "PET_RDZV_ENDPOINT is not"
        raise ConfigError(
            f"PET_NNODES={nodes}, and {missing} set: the pods of a job need a place to meet, and a range of "
            "them an elastic one. Add a Master replica or an elasticPolicy to the job."
        )
    return _static(environ, most, processes, address, restarts)


def _static(environ: Environ, nodes: int, processes: str, address: str, restarts: int) -> RankEnv | NodeEnv:
    """A fixed number of pods that meet at the master's address."""
    master_port = port(environ, "PET_MASTER_PORT" if get(environ, "PET_MASTER_PORT") else "MASTER_PORT")
    rank_text = _same(environ, "PET_NODE_RANK", "RANK")
    if rank_text is None and nodes > 1:
        raise ConfigError(
            f"PET_NNODES={nodes}, and neither PET_NODE_RANK nor RANK is set: each pod needs its own number. "
            "Leave them as the operator sets them."
        )
    node_rank = whole(environ, "PET_NODE_RANK" if get(environ, "PET_NODE_RANK") else "RANK", 0)
    if node_rank >= nodes:
        raise ConfigError(
            f"{'PET_NODE_RANK' if get(environ, 'PET_NODE_RANK') else 'RANK'}={node_rank}, PET_NNODES={nodes}: "
            f"pods count from 0 to {nodes - 1}. Leave both as the operator sets them."
        )
    has_world = get(environ, "WORLD_SIZE") is not None or get(environ, "RANK") is not None
    if has_world:
        needed(environ, "WORLD_SIZE", beside="RANK")
        needed(environ, "RANK", beside="WORLD_SIZE")
        expected = nodes * (int(processes) if processes.isdecimal() else 1)
        if whole(environ, "WORLD_SIZE") != expected:
            raise ConfigError(
                f"WORLD_SIZE={environ['WORLD_SIZE']}, PET_NNODES={nodes}, PET_NPROC_PER_NODE={processes}: the operator "
                f"makes it nodes x processes, {expected} here. Take these variables out of the pod's own env section."
            )
    if has_world and processes in ("auto", "1"):
        found = Numbers(node_rank, nodes, 0, 1)
        check_numbers(PLAIN, found)
        check_reachable(PLAIN._replace(local_world_size="processes per pod"), found, address)
        return RankEnv("pytorchjob", node_rank, 0, node_rank, nodes, 1, address, master_port, run_id=address)
    return NodeEnv(
        str(nodes),
        processes,
        node_rank=node_rank,
        master_addr=address,
        master_port=master_port,
        max_restarts=restarts,
    )


def _most_nodes(nodes: str) -> int:
    """The number in '4', the upper one in '1:3'."""
    match = re.fullmatch(r"([0-9]+)(?::([0-9]+))?", nodes)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise ConfigError(f"PET_NNODES={nodes!r}: it must read like 4 or 1:3. Correct the job's replicas.")
    return high


def _processes(environ: Environ) -> str:
    """Processes per node, torchrun's default where nothing is said."""
    processes = get(environ, "PET_NPROC_PER_NODE") or "1"
    if processes not in ("auto", "gpu", "cpu") and not re.fullmatch(r"[1-9][0-9]*", processes):
        raise ConfigError(
            f"PET_NPROC_PER_NODE={processes!r}: it must be auto, gpu, cpu or a number. Correct the job's nprocPerNode."
        )
    return processes


def _is_standalone(environ: Environ) -> bool:
    """PyTorchJob says yes with an empty value."""
    return environ.get("PET_STANDALONE", "0").strip().lower() not in ("0", "false", "no")


def _same(environ: Environ, name: str, other: str) -> str | None:
    """The value of two variables that the operator sets alike."""
    first, second = get(environ, name), get(environ, other)
    if first is not None and second is not None and first != second:
        raise ConfigError(
            f"{name}={first}, {other}={second}: the operator sets both alike. Take them out of the pod's own env."
        )
    return first if first is not None else second
