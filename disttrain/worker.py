"""One rank from start to exit code: connect to the others, do the work, and fail as one job, with one report."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from disttrain.comm.board import Board
from disttrain.errors import DisttrainError, say_error
from disttrain.launch_env import AGENT_VARIABLE, RankEnv
from disttrain.logs import RankLogging, log
from disttrain.processes import die_with_parent
from disttrain.watchdog import Watchdog


def run_rank(env: RankEnv, timeout_s: float, quiet: bool, body: Callable[[Board, RankLogging], Any]) -> int:
    """Run `body` as one rank. Returns the exit code of the whole job: that of the first rank that failed, or 0."""
    if env.agent_store:
        die_with_parent(int(os.environ.get(AGENT_VARIABLE) or os.getppid()))
    try:
        board = Board(env, timeout_s)
    except DisttrainError as error:
        say_error(str(error))
        return error.exit_code
    logging = RankLogging(board.connect(), env.rank, env.world_size, quiet)
    with Watchdog(board, say_error) as watchdog:
        try:
            body(board, logging)
            return 0
        except BaseException as error:
            watchdog.leave()
            log.debug("this rank failed", exc_info=error)
            exit_code, message = board.settle_failure(error)
            if message is not None:
                logging.flush()
                say_error(message)
                board.notices.reported()
            return exit_code
        finally:
            watchdog.leave()
            logging.close()
            board.close()
