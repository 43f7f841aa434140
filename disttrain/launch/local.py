"""Start ranks on this machine (or this node of several) through an elastic agent, and hand their exit code on.

torchrun itself turns every exit code of a worker into 1. Here the first worker that fails decides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from disttrain.errors import ConfigError, PeerLostError
from disttrain.launch.agent.forked_rank import ForkServer
from disttrain.launch.env import NodeEnv, agent_environ, bare_address, is_loopback, limit_name_lookups
from disttrain.system.import_path import RUN_MODULE
from disttrain.system.processes import replace_environ

if TYPE_CHECKING:
    from disttrain.launch.agent.elastic import Agent

# Unless --rdzv-conf says otherwise. torch would wait 30 s for more than MIN nodes, and 15 s until one counts as gone.
_RENDEZVOUS: Mapping[str, int] = {"last_call_timeout": 5, "keep_alive_interval": 2, "keep_alive_max_attempt": 3}


def start_workers(
    count: int, command: Sequence[str], max_restarts: int, notice_s: float, preload: Sequence[str] = ()
) -> int:
    """Run `disttrain COMMAND` as `count` ranks on this machine; the exit code of the job.

    `notice_s`: the grace period of ranks that are asked to stop, in seconds. `preload`: see `run_agent`.
    """
    options = ["--standalone", "--nproc-per-node", str(count), "--max-restarts", str(max_restarts)]
    return _start(str(count), options, command, notice_s, preload)


def start_node(node: NodeEnv, command: Sequence[str], notice_s: float, preload: Sequence[str] = ()) -> int:
    """Run the ranks of one node of a Kubernetes job; `auto` ranks are one per GPU, or one on the CPU."""
    if node.nproc_per_node == "auto":
        node = dataclasses.replace(node, nproc_per_node=str(default_worker_count()))
    return _start(node.nproc_per_node, node.torchrun_arguments(), command, notice_s, preload)


def _start(count: str, options: Sequence[str], command: Sequence[str], notice_s: float, preload: Sequence[str]) -> int:
    replace_environ(agent_environ(os.environ))
    _divide_cores(count)
    return run_agent([*options, RUN_MODULE, "disttrain", *command], notice_s, preload)


def default_worker_count() -> int:
    """One rank per GPU, or one on the CPU."""
    import torch

    return max(1, torch.cuda.device_count())


def run_agent(argv: Sequence[str], notice_s: float, preload: Sequence[str] = ()) -> int:
    """An agent with torchrun's arguments, in this process. Raises ConfigError for options that torchrun refuses.

    `preload`: modules that each rank of this package needs. They are imported once, and the ranks forked from there.
    """
    # The agent's long reports give way to the one that the ranks make. (torch sets "torch.distributed" anew on import.)
    limit_name_lookups(os.environ)
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    if os.environ.get("PYTHON_EXEC") not in (None, sys.executable):  # of torchrun: the ranks run under another Python
        preload = ()
    with contextlib.ExitStack() as stack:
        server: ForkServer | None = None
        if preload and "OMP_NUM_THREADS" in os.environ:  # beside the import of torch in this process
            server = stack.enter_context(contextlib.closing(ForkServer(preload)))
        from torch.distributed import run as torchrun

        arguments = torchrun.parse_args(list(argv))
        with contextlib.suppress(ValueError):  # which the agent's own look at the options explains
            arguments.nproc_per_node = str(torchrun.determine_local_world_size(arguments.nproc_per_node))  # of "auto"
        _divide_cores(arguments.nproc_per_node)
        if preload and server is None:
            server = stack.enter_context(contextlib.closing(ForkServer(preload)))
        return _build_agent(arguments, notice_s, server).run_job()


def _build_agent(arguments: Any, notice_s: float, server: ForkServer | None) -> Agent:
    """What torchrun makes of its arguments, but with an agent of ours."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousParameters
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    from disttrain.launch.agent.elastic import Agent
    from disttrain.launch.agent.rendezvous import RoundRendezvous

    _choose_meeting_place(arguments)
    try:
        config, entrypoint, words = torchrun.config_from_args(arguments)
        settings = {**(_RENDEZVOUS if config.rdzv_backend == "c10d" else {}), **config.rdzv_configs}
        parameters = RendezvousParameters(
            config.rdzv_backend,
            config.rdzv_endpoint,
            config.run_id,
            config.min_nodes,
            config.max_nodes,
            local_addr=config.local_addr,
            **settings,
        )
        # Fields that torch adds from version to version have the same name in both.
        shared = {one.name for one in dataclasses.fields(WorkerSpec)} & {one.name for one in dataclasses.fields(config)}
        handler = get_rendezvous_handler(parameters)
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"torchrun refuses its options: {error}") from None
    except RendezvousError as error:
        raise PeerLostError(
            f"nobody answers at --rdzv-endpoint {arguments.rdzv_endpoint}: {error.__cause__ or error}. Run the same "
            "command again once the node that listens there is up."
        ) from None
    rounds = RoundRendezvous(handler)
    spec = WorkerSpec(
        local_world_size=config.nproc_per_node,
        entrypoint=entrypoint,
        args=tuple(words),
        rdzv_handler=rounds,
        **{name: getattr(config, name) for name in shared},
    )
    return Agent(spec, rounds, config, notice_s, server)


def _choose_meeting_place(arguments: Any) -> None:
    """A port of this machine for a job on one node, as torchrun chooses it, so that two such jobs never share one."""
    given = arguments.rdzv_endpoint or arguments.master_port is not None
    one_node = str(arguments.nnodes) in ("1", "1:1") and arguments.rdzv_backend == "static"
    if arguments.standalone or (one_node and not given):
        arguments.rdzv_backend, arguments.rdzv_endpoint = "c10d", "localhost:0"
        arguments.rdzv_id = str(uuid.uuid4())
    if arguments.master_port is None:
        arguments.master_port = 29500
    host = (arguments.rdzv_endpoint or "").rpartition(":")[0]
    if arguments.local_addr is None and is_loopback(host):  # torch would take the host's own name, which may be unknown
        address = bare_address(host)
        arguments.local_addr = "127.0.0.1" if address[:1].isalpha() else address
    if arguments.master_addr is not None:
        arguments.master_addr = bare_address(arguments.master_addr)


def _divide_cores(count: str) -> None:
    """Give each rank its part of the cores, where the user has not said otherwise: torchrun would give it one."""
    if "OMP_NUM_THREADS" not in os.environ and count.isdigit():
        cores = len(os.sched_getaffinity(0))
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores // max(1, int(count))))
