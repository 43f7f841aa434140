"""Start ranks on this machine (or this node of several) through torch's elastic agent, and hand their exit code on.

torchrun itself turns every exit code of a worker into 1. Here the first worker that fails decides, as INTERFACE says.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from disttrain.errors import ConfigError, PeerLostError, Preempted
from disttrain.launch_env import NodeEnv, agent_environ


def start_agent(options: Sequence[str], command: Sequence[str]) -> int:
    """Run `disttrain COMMAND` as ranks under an elastic agent with torchrun's `options`; the exit code of the job.

    Raises ConfigError for options that torchrun does not take.
    """
    # Read by torchrun's own parser and by the workers; the agent's long reports give way to the workers' one.
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    from torch.distributed import run as torchrun

    for name in set(os.environ) - set(agent_environ(os.environ)):
        del os.environ[name]
    arguments = torchrun.parse_args([*options, "--module", "disttrain", *command])
    _divide_cores(arguments.nproc_per_node)
    return _run(torchrun, arguments)


def _divide_cores(nproc_per_node: str) -> None:
    """Give each rank its part of the cores, where the user has not said otherwise: torchrun would give it one."""
    if nproc_per_node.isdigit() and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores // int(nproc_per_node)))


def _run(torchrun: Any, arguments: Any) -> int:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torchrun.run(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _worker_exit_code(rank, failure.exitcode)
    except SignalException as error:
        return Preempted.exit_code if error.sigval == signal.SIGTERM else 128 + int(error.sigval)
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"torchrun refuses its options: {error}") from None
    except Exception as error:  # rendezvous timeouts and closed stores have no common base class
        raise PeerLostError(f"the elastic agent gave up: {type(error).__name__}: {error}") from error
    return 0


def _worker_exit_code(rank: int, exit_code: int) -> int:
    if exit_code >= 0:
        return exit_code
    name = signal.Signals(-exit_code).name
    if -exit_code == signal.SIGTERM:
        return Preempted.exit_code
    sys.stderr.write(f"disttrain: error: rank {rank} was killed by {name}. Run the same command again.\n")
    return PeerLostError.exit_code


def start_node(node: NodeEnv, command: Sequence[str]) -> int:
    """Run the ranks of one node of a Kubernetes job; `auto` ranks are one per GPU, or one on the CPU."""
    if node.nproc_per_node == "auto":
        node = dataclasses.replace(node, nproc_per_node=str(default_worker_count()))
    return start_agent(node.torchrun_arguments(), command)


def worker_options(workers: int) -> list[str]:
    """torchrun options for `workers` ranks on this machine alone."""
    return ["--standalone", "--nproc-per-node", str(workers)]


def default_worker_count() -> int:
    """One rank per GPU, or one on the CPU."""
    import torch

    return max(1, torch.cuda.device_count())
