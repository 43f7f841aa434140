"""What of the watchdog shows without the end of a process; the rest is in tests/distributed/test_hangs.py."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest

from disttrain.comm.board import Board
from disttrain.comm.signs import Peer, SignsOfLife
from disttrain.launch_env import RankEnv
from disttrain.ledger import WAITING
from disttrain.watchdog import Watchdog, within


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def joined(rank: int, port: int) -> tuple[Board, SignsOfLife]:
    board = Board(RankEnv("env", rank, rank, 0, 2, 2, "127.0.0.1", port, run_id=f"watchdog {port}"), timeout_s=60)
    assert board.signs is not None
    return board, board.signs


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def test_what_takes_too_long_or_fails_is_nobodys_wait() -> None:
    held = threading.Event()
    began = time.monotonic()
    assert within(0.1, held.wait) is None
    assert time.monotonic() - began < 2
    held.set()
    assert within(5, lambda: 1 // 0) is None
    assert within(5, lambda: 7) == 7


def test_a_rank_alone_needs_no_thread() -> None:
    before = threading.active_count()
    board = Board(RankEnv.alone(), 1)
    with Watchdog(board, print):
        assert threading.active_count() == before
    board.close()


def test_signs_say_where_a_rank_is_and_how_it_got_there(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disttrain.comm.board._boards_made", _Once())
    board, signs = joined(0, port)
    other, others = joined(1, port)
    threads = threading.active_count()

    def seen() -> Peer:
        signs.refresh()
        (peer,) = signs.peers()
        return peer

    assert seen().sign.phase == "starting"
    other.ledger.enter(WAITING, 12)
    assert until(lambda: (seen().sign.step, seen().sign.phase) == (12, WAITING))
    assert (seen().rank, seen().sign.host, seen().state in ("R", "S")) == (1, socket.gethostname(), True)
    (shown,) = signs.with_stacks([seen()])
    assert "test_signs_say_where_a_rank_is_and_how_it_got_there" in shown.stack
    assert seen().silent_s < 3
    assert not seen().sign.has_left
    others.close()
    assert until(lambda: seen().sign.has_left)
    number = seen().sign.number
    assert threading.active_count() == threads - 1
    assert until(lambda: seen().silent_s > 1.5)
    assert seen().sign.number == number
    signs.awake_since = time.monotonic()
    assert seen().silent_s < 1
    other.notices.leave(False)
    board.close()
    assert threading.active_count() == threads - 2


class _Once:
    """Each board of this process is its rank's first."""

    def __getitem__(self, key: str) -> int:
        return 1

    def __setitem__(self, key: str, value: int) -> None: ...
