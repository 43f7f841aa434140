"""One rank from start to exit code: connect to the others, do the work, and fail as one job, with one report."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable
from typing import Any

from disttrain.comm.board import Board
from disttrain.errors import DisttrainError
from disttrain.launch_env import RankEnv
from disttrain.logs import RankLogging, log

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def say_error(message: str) -> None:
    """One error message on standard error."""
    sys.stderr.write(f"disttrain: error: {message}\n")
    sys.stderr.flush()


def run_rank(env: RankEnv, timeout_s: float, quiet: bool, body: Callable[[Board, RankLogging], Any]) -> int:
    """Run `body` as one rank. Returns the exit code of the whole job: that of the first rank that failed, or 0."""
    if env.agent_store:
        _die_with_parent()
    try:
        board = Board(env, timeout_s)
    except DisttrainError as error:
        say_error(str(error))
        return error.exit_code
    logging = RankLogging(board.store, env.rank, env.world_size, quiet)
    try:
        body(board, logging)
        return 0
    except BaseException as error:
        log.debug("this rank failed", exc_info=error)
        exit_code, message = board.settle_failure(error)
        if message is not None:
            logging.flush()
            say_error(message)
            board.reported()
        return exit_code
    finally:
        logging.close()
        board.close()


def _die_with_parent() -> None:
    """Let the kernel end this rank when the elastic agent that started it is gone, however it went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
