from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from disttrain.errors import ConfigError, PeerLostError, Preempted
from disttrain.launch.env import NodeEnv, RankEnv
from disttrain.launch.meeting_place import TIMEOUT_VARIABLE, await_meeting_place

_NOWHERE = "master.invalid"  # a name that no server ever knows (RFC 2606)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "0.1")


@pytest.fixture
def own_address() -> Iterator[str]:
    """One by which another machine could reach this one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent: it only picks the outgoing address
        yield str(probe.getsockname()[0])


def _node(rank: int, host: str, port: int) -> NodeEnv:
    return NodeEnv("2", "2", node_rank=rank, master_addr=host, master_port=port)


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "env",
    [
        _node(0, _NOWHERE, 1),
        _node(1, _NOWHERE, 1),
        NodeEnv("1:3", "1", rdzv_backend="c10d", rdzv_endpoint=f"{_NOWHERE}:1"),
        RankEnv("pytorchjob", 1, 0, 1, 2, 1, _NOWHERE, 1),
    ],
)
def test_a_name_that_stays_unknown_is_told_with_what_to_look_at(env: NodeEnv | RankEnv) -> None:
    with pytest.raises(PeerLostError, match=r"its name is still not known .* headless Service"):
        await_meeting_place(env)


def test_a_port_at_which_nobody_answers_is_told(own_address: str) -> None:
    with pytest.raises(PeerLostError, match=r"nobody answers after .* NetworkPolicy"):
        await_meeting_place(_node(1, own_address, _closed_port()))


def test_a_port_that_opens_late_is_waited_for(own_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "60")
    port = _closed_port()
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", port))
        opening = threading.Timer(0.7, server.listen)
        opening.start()
        await_meeting_place(_node(1, own_address, port))
        opening.join()


def test_the_pod_that_listens_there_does_not_wait_for_itself(own_address: str) -> None:
    await_meeting_place(_node(0, own_address, _closed_port()))
    await_meeting_place(NodeEnv("1:3", "1", rdzv_backend="c10d", rdzv_endpoint=f"{own_address}:{_closed_port()}"))


@pytest.mark.parametrize(
    "env",
    [
        RankEnv.alone(),
        RankEnv("slurm", 1, 0, 1, 2, 1, _NOWHERE, 1),
        NodeEnv("1", "2", standalone=True),
        NodeEnv("2", "1", rdzv_backend="c10d", rdzv_endpoint="localhost:1"),
    ],
)
def test_other_launchers_and_one_machine_do_not_wait(env: NodeEnv | RankEnv) -> None:
    await_meeting_place(env)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_pod_that_waits_can_be_stopped(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "600")
    before = signal.getsignal(number)
    asking = threading.Timer(0.3, os.kill, (os.getpid(), number))
    asking.start()
    with pytest.raises(Preempted, match="nothing had begun"):
        await_meeting_place(_node(1, _NOWHERE, 1))
    asking.join()
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "inf", "nan"])
def test_a_limit_that_is_no_time_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with pytest.raises(ConfigError, match=TIMEOUT_VARIABLE):
        await_meeting_place(_node(1, _NOWHERE, 1))
