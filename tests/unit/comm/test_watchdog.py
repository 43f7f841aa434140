"""What of the watchdog shows without the end of a process; the rest is in tests/distributed/test_hangs.py."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest

from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.heartbeat import Heartbeat, Peer
from disttrain.comm.watchdog import Watchdog
from disttrain.launch.env import RankEnv
from disttrain.telemetry.phases import WAITING


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def joined(rank: int, port: int) -> tuple[ControlPlane, Heartbeat]:
    control_plane = ControlPlane(
        RankEnv("env", rank, rank, 0, 2, 2, "127.0.0.1", port, run_id=f"watchdog {port}"), timeout_s=60
    )
    assert control_plane.heartbeat is not None
    return control_plane, control_plane.heartbeat


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def test_a_rank_alone_needs_no_thread() -> None:
    before = threading.active_count()
    control_plane = ControlPlane(RankEnv.alone(), 1)
    with Watchdog(control_plane, print):
        assert threading.active_count() == before
    control_plane.close()


def test_signs_say_where_a_rank_is_and_how_it_got_there(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disttrain.comm.control_plane._instances_made", _Once())
    control_plane, heartbeat = joined(0, port)
    other, others = joined(1, port)
    threads = threading.active_count()

    def seen() -> Peer:
        heartbeat.refresh()
        (peer,) = heartbeat.peers()
        return peer

    assert seen().beat.phase == "starting"
    other.phases.enter(WAITING, 12)
    assert until(lambda: (seen().beat.step, seen().beat.phase) == (12, WAITING))
    assert (seen().rank, seen().beat.host, seen().state in ("R", "S")) == (1, socket.gethostname(), True)
    (shown,) = heartbeat.with_stacks([seen()])
    assert "test_signs_say_where_a_rank_is_and_how_it_got_there" in shown.stack
    assert seen().heartbeat_age_s < 3
    assert not seen().beat.has_left
    others.close()
    assert until(lambda: seen().beat.has_left)
    number = seen().beat.number
    assert threading.active_count() == threads - 1
    assert until(lambda: seen().heartbeat_age_s > 1.5)
    assert seen().beat.number == number
    heartbeat.resumed_at = time.monotonic()
    assert seen().heartbeat_age_s < 1
    other.failure_log.sign_off(False)
    control_plane.close()
    assert threading.active_count() == threads - 2


class _Once:
    """Each control plane of this process is its rank's first."""

    def __getitem__(self, key: str) -> int:
        return 1

    def __setitem__(self, key: str, value: int) -> None: ...
