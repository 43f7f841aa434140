"""Start ranks on this machine (or this node of several) through torch's elastic agent, and hand their exit code on.

torchrun itself turns every exit code of a worker into 1. Here the first worker that fails decides.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from disttrain.errors import ConfigError, DisttrainError, PeerLostError, Preempted
from disttrain.launch_env import NodeEnv, agent_environ, torchrun_environ


def start_workers(count: int, command: Sequence[str]) -> int:
    """Run `disttrain COMMAND` as `count` ranks on this machine; the exit code of the job."""
    return _start(["--standalone", "--nproc-per-node", str(count)], command)


def start_node(node: NodeEnv, command: Sequence[str]) -> int:
    """Run the ranks of one node of a Kubernetes job; `auto` ranks are one per GPU, or one on the CPU."""
    if node.nproc_per_node == "auto":
        node = dataclasses.replace(node, nproc_per_node=str(default_worker_count()))
    return _start(node.torchrun_arguments(), command)


def _start(options: Sequence[str], command: Sequence[str]) -> int:
    _replace_environ(agent_environ(os.environ))
    return _run_agent([*options, "--module", "disttrain", *command])


def default_worker_count() -> int:
    """One rank per GPU, or one on the CPU."""
    import torch

    return max(1, torch.cuda.device_count())


def _run_agent(argv: Sequence[str]) -> int:
    """torchrun with these arguments, in this process. Raises ConfigError for options that it does not take."""
    # The agent's long reports give way to the one that the ranks make. (torch sets "torch.distributed" anew on import.)
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = torchrun.parse_args(list(argv))
    _divide_cores(arguments)
    try:
        torchrun.run(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _worker_exit_code(rank, failure.exitcode)
    except SignalException as error:
        return Preempted.exit_code if error.sigval == signal.SIGTERM else 128 + int(error.sigval)
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"torchrun refuses its options: {error}") from None
    except Exception as error:  # rendezvous timeouts and closed stores have no base class in common
        raise PeerLostError(f"the elastic agent gave up: {type(error).__name__}: {error}") from error
    return 0


def _divide_cores(arguments: Any) -> None:
    """Give each rank its part of the cores, where the user has not said otherwise: torchrun would give it one."""
    if "OMP_NUM_THREADS" not in os.environ and arguments.nproc_per_node.isdigit():
        cores = len(os.sched_getaffinity(0))
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores // max(1, int(arguments.nproc_per_node))))


def _worker_exit_code(rank: int, exit_code: int) -> int:
    if exit_code >= 0:
        return exit_code
    if -exit_code == signal.SIGTERM:
        return Preempted.exit_code
    name = {one.value: one.name for one in signal.Signals}.get(-exit_code, f"signal {-exit_code}")
    sys.stderr.write(f"disttrain: error: rank {rank} was killed by {name}. Run the same command again.\n")
    return PeerLostError.exit_code


def _replace_environ(environ: dict[str, str]) -> None:
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    os.environ.update(environ)


def main() -> int:
    """`python -m disttrain.launch [torchrun options] CONFIG [options of disttrain train]`: what torchrun.sh calls."""
    from torch.distributed.run import get_args_parser

    from disttrain.cli import parse
    from disttrain.config import load_config

    argv = sys.argv[1:]
    try:
        _replace_environ(torchrun_environ(os.environ, default_worker_count))
        parsed = get_args_parser().parse_args(argv)
        command = ["train", parsed.training_script, *parsed.training_script_args]
        train = parse(command)
        load_config(train.config, train.overrides)
        options = argv[: len(argv) - len(command) + 1]
        return _run_agent([*options, "--module", "disttrain", *command])
    except DisttrainError as error:
        sys.stderr.write(f"disttrain: error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
