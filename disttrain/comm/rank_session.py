"""One rank from start to exit code: connect to the others, do the work, and fail as one job, with one report."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.rank_logging import RankLogging
from disttrain.comm.watchdog import Watchdog
from disttrain.errors import DisttrainError, say_error
from disttrain.launch.env import AGENT_VARIABLE, RankEnv
from disttrain.log import log
from disttrain.processes import die_with_parent


def run_rank(env: RankEnv, timeout_s: float, quiet: bool, work: Callable[[ControlPlane, RankLogging], Any]) -> int:
    """Run `body` as one rank. Returns the exit code of the whole job: that of the first rank that failed, or 0."""
    if env.agent_store:
        die_with_parent(int(os.environ.get(AGENT_VARIABLE) or os.getppid()))
    try:
        control_plane = ControlPlane(env, timeout_s)
    except DisttrainError as error:
        say_error(str(error))
        return error.exit_code
    logging = RankLogging(control_plane.connect(), env.rank, env.world_size, quiet)
    with Watchdog(control_plane, say_error) as watchdog:
        try:
            work(control_plane, logging)
            return 0
        except BaseException as error:
            watchdog.leave()
            log.debug("this rank failed", exc_info=error)
            exit_code, message = control_plane.resolve_failure(error)
            if message is not None:
                logging.flush()
                say_error(message)
                control_plane.failure_log.mark_reported()
            return exit_code
        finally:
            watchdog.leave()
            logging.close()
            control_plane.close()
