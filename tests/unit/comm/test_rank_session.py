"""One rank from start to exit code."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest

from disttrain.comm.rank_session import RankSession, rank_session
from disttrain.errors import ConfigError, DataError, DivergedError, PeerLostError, Preempted, exit_code_of
from disttrain.launch.env import RankEnv
from disttrain.log import log

from ..helpers import run_python


def exit_code(env: RankEnv, timeout_s: float, work: Callable[[RankSession], Any]) -> int:
    """Of a program that is this rank."""

    def program() -> int:
        with rank_session(env, timeout_s, quiet=True) as session:
            work(session)
        return 0

    return exit_code_of(program)


def alone(work: Callable[[RankSession], Any]) -> int:
    return exit_code(RankEnv.alone(), 5, work)


def test_work_that_is_done_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    assert alone(lambda session: seen.append(session.env.rank)) == 0
    assert seen == [0]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("wrong"), 2), (DataError("missing"), 3), (DivergedError("nan"), 4), (Preempted("asked"), 143),
        (PeerLostError("gone"), 144),
    ],
)  # fmt: skip
def test_an_error_is_told_in_one_line_and_decides_the_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(session: RankSession) -> None:
        raise error

    assert alone(work) == code
    assert capsys.readouterr().err == f"disttrain: error: {error}\n"


def test_an_error_of_another_kind_exits_with_1_and_shows_where_it_came_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(session: RankSession) -> None:
        raise ZeroDivisionError("oops")

    assert alone(work) == 1
    told = capsys.readouterr().err
    assert told.startswith("disttrain: error: ZeroDivisionError: oops\n")
    assert 'raise ZeroDivisionError("oops")' in told


def test_an_interrupt_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def work(session: RankSession) -> None:
        raise KeyboardInterrupt

    assert alone(work) == 130
    assert "interrupted" in capsys.readouterr().err


def test_logging_is_detached_afterwards() -> None:
    before = list(log.handlers)
    alone(lambda session: None)
    assert log.handlers == before
    assert logging.getLogger("py.warnings").handlers == []


def test_an_address_where_nobody_answers_exits_with_144(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = RankEnv("env", 1, 1, 0, 2, 2, "127.0.0.1", port)
    assert exit_code(env, 1, lambda session: None) == 144
    assert "rank 1 could not reach rank 0" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_rank_ends_with_the_agent_that_started_it() -> None:
    code = """
import os, sys, time
from disttrain.system.processes import die_with_parent
reader, writer = os.pipe()
middle = os.fork()
if middle == 0:
    agent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(agent)
        os.write(writer, b"ready")
        time.sleep(60)
    os.read(reader, 5)
    os.kill(os.getpid(), 9)
os.waitpid(middle, 0)
os.close(writer)
print(os.read(reader, 1))  # end of file only once the child is gone too
"""
    assert run_python(code).stdout == "b''\n"


def test_a_rank_whose_agent_is_gone_already_ends_at_once() -> None:
    code = "import os\nfrom disttrain.system.processes import die_with_parent\ndie_with_parent(os.getppid() + 1)\n"
    assert run_python(code).returncode == -9
