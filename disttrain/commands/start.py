"""Join as a rank, start ranks on this machine, or be the only one: what `train`, `evaluate` and `predict` share."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from disttrain.commands.parser import parse
from disttrain.config import Config, load_config
from disttrain.errors import ConfigError, DisttrainError
from disttrain.launch.env import NodeEnv, RankEnv, resolve
from disttrain.launch.meeting_place import await_meeting_place
from disttrain.launch.slurm.cores import cores_of_task

if TYPE_CHECKING:
    from disttrain.comm.rank_session import RankSession

T = TypeVar("T")

CONNECT_TIMEOUT_S = 60.0
"""How long a rank tries to reach the others."""

PRELOAD = (
    "torch._dynamo",  # a process's first optimizer imports it
    "disttrain.commands.train",
    "disttrain.data.cache",
    "disttrain.data.decode",
    "disttrain.inference.evaluate_model",
    "disttrain.inference.predict_files",
    "disttrain.training.run",
)
"""What the ranks of every command need. No user's code, and nothing that depends on the rank or looks at a GPU."""


def join_or_start(
    arguments: argparse.Namespace, argv: Sequence[str], validate: Callable[[int], Config | None]
) -> RankEnv | int:
    """The rank that this process is, by its launcher or because there is only one; or, where it has started the ranks
    itself and they have ended, the exit code of the job.

    `validate` finds mistakes before processes are started for nothing, and before torch is imported. It is given the
    number of ranks, as far as it is known, and returns the config, where the command has one.
    """
    env = resolve(os.environ)
    if isinstance(env, RankEnv) and env.launcher == "slurm":  # before torch is imported, which reads it
        cores = cores_of_task(os.environ, len(os.sched_getaffinity(0)), env.local_world_size)
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    restarts: int | None = getattr(arguments, "max_restarts", None)
    if isinstance(env, NodeEnv):
        from disttrain.launch.local import start_node

        notice_s = _notice_s(validate(1))
        if restarts is not None:
            env = dataclasses.replace(env, max_restarts=restarts)
        await_meeting_place(env)
        return start_node(env, argv, notice_s, PRELOAD)
    if env is None or env.world_size == 1:
        wanted = _wanted_workers(arguments.workers)
        config = validate(wanted or 1)
        if env is None and arguments.workers is None and config is not None and config.train.workers:
            wanted = config.train.workers
            config = validate(wanted)
        from disttrain.launch.local import default_worker_count, start_workers

        workers = wanted or (default_worker_count() if env is None else 1)
        if workers > 1 or (restarts and env is None):
            return start_workers(workers, argv, restarts or 0, _notice_s(config), PRELOAD)
    return env or RankEnv.alone()


@contextlib.contextmanager
def validated_session(
    env: RankEnv, arguments: argparse.Namespace, validate: Callable[[int], T]
) -> Iterator[tuple[RankSession, T]]:
    """A session of this rank with the others, and what `validate` returns for this number of ranks.

    What this rank knows to be wrong with its arguments is found before it looks for the others, and told whether or not
    they come. Raises RanksFailed where a rank refuses its arguments.
    """
    from disttrain.comm.rank_session import rank_session

    refusal: DisttrainError | None = None
    try:
        _check_launched(arguments.workers, getattr(arguments, "max_restarts", None), env)
        value = validate(env.world_size)
    except DisttrainError as error:
        refusal = error

    def result() -> T:
        if refusal is not None:
            raise refusal
        return value

    if refusal is None:
        await_meeting_place(env)
    with rank_session(env, CONNECT_TIMEOUT_S, arguments.quiet, refusal=refusal) as session:
        yield session, session.control_plane.run_on_all("arguments", result)


def _wanted_workers(text: str | None) -> int | None:
    """`--workers` as a number, None for `auto`."""
    if text is None or text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigError(f"--workers {text}: give a number of at least 1, or auto (one per GPU, else 1).")
    return int(text)


def _notice_s(config: Config | None) -> float:
    """The grace period of ranks that are asked to stop; a command without a config has the default."""
    return (config or Config()).checkpoint.notice_s


def _check_launched(wanted: str | None, restarts: int | None, env: RankEnv) -> None:
    """Under a launcher `--workers` may only repeat what was started, and only our agent starts ranks again."""
    if restarts and env.launcher not in ("torchrun", "none"):
        raise ConfigError(
            f"--max-restarts {restarts}, but {env.launcher} has started this rank and starts none again. Leave it out "
            "and run the same command again instead, or use launchers/torchrun.sh."
        )
    if env.world_size > 1 and _wanted_workers(wanted) not in (None, env.local_world_size):
        raise ConfigError(
            f"--workers {wanted}, but {env.launcher} has started {env.local_world_size} ranks on this node. Leave "
            f"--workers out under a launcher. {env.hint}".rstrip()
        )


def check_train(train: Sequence[str]) -> Config:
    """The config that `disttrain train` will read under mpirun. Raises ConfigError for what it would refuse."""
    parsed = parse(["train", *train])
    if parsed.workers is not None and parsed.workers != "auto":
        raise ConfigError(f"--workers {parsed.workers}: here -np says how many ranks there are. Leave --workers out.")
    return load_config(parsed.config, parsed.overrides)
