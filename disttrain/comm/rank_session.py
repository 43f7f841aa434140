"""The lifetime of one rank: connected to the others, watched, and ended together with them, with one report."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from logging import ERROR, WARNING

from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.failures import RanksFailed
from disttrain.comm.rank_logging import RankLogging, write_to_rank_file
from disttrain.comm.watchdog import Watchdog
from disttrain.errors import DisttrainError, Preempted, say_error
from disttrain.launch.env import AGENT_VARIABLE, RankEnv
from disttrain.log import log
from disttrain.system.memory import keep_freed_memory
from disttrain.system.processes import die_with_parent
from disttrain.system.waits import SOON_S


@dataclass(frozen=True)
class RankSession:
    """What a rank has beside its work, until the session ends."""

    env: RankEnv
    control_plane: ControlPlane
    logging: RankLogging


@contextlib.contextmanager
def rank_session(
    env: RankEnv, timeout_s: float, quiet: bool, in_library: bool = False, refusal: DisttrainError | None = None
) -> Iterator[RankSession]:
    """Connect this rank to the others; within the block it works, and afterwards it leaves.

    An exception in the block ends the job on all ranks, and one rank reports it. A program that is a rank writes the
    report to standard error, and SystemExit has the exit code of the job: that of the first rank that failed. With
    `in_library` the exception reaches the caller of the first rank that fails, and the others raise SystemExit.

    Raises ConfigError or PeerLostError where the other ranks cannot be reached, or `refusal`, for which this rank is
    about to end anyway: then it looks for the others for a moment only, so that one report is made of all.
    """
    keep_freed_memory()
    if env.agent_store and not in_library:
        die_with_parent(int(os.environ.get(AGENT_VARIABLE) or os.getppid()))
    try:
        control_plane = ControlPlane(env, timeout_s if refusal is None else min(timeout_s, SOON_S))
    except DisttrainError:
        if refusal is None:
            raise
        raise refusal from None
    logging = RankLogging(control_plane.connect(), env.rank, env.world_size, quiet)
    with Watchdog(control_plane, say_error) as watchdog:
        try:
            yield RankSession(env, control_plane, logging)
        except BaseException as error:
            if in_library and not isinstance(error, Exception):
                raise
            watchdog.leave()
            log.debug("this rank failed", exc_info=error)
            exit_code, report = control_plane.resolve_failure(error)
            if report is None:
                raise SystemExit(exit_code) from None
            write_to_rank_file(report, ERROR if exit_code < Preempted.exit_code else WARNING)
            if in_library:
                if isinstance(error, DisttrainError) and not isinstance(error, RanksFailed) and env.world_size > 1:
                    raise type(error)(report) from error
                raise
            logging.flush()
            say_error(report)
            control_plane.failure_log.mark_reported()
            raise SystemExit(exit_code) from None
        finally:
            watchdog.leave()
            logging.close()
            control_plane.close()
