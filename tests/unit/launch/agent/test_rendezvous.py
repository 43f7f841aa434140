"""What the nodes settle at each start of the ranks, over torch's own rendezvous."""

from __future__ import annotations

import inspect
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from disttrain.launch.agent.rendezvous import RoundRendezvous

from ...helpers import not_none


@pytest.fixture(autouse=True)
def _environ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "")  # `Rounds` sets it: put back afterwards


@pytest.fixture
def server() -> TCPStore:
    return TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


def c10d(server: TCPStore, most: int) -> RendezvousHandler:
    store = TCPStore("localhost", server.port, timeout=timedelta(seconds=30))
    backend = C10dRendezvousBackend(store, "job")
    return DynamicRendezvousHandler.from_backend("job", store, backend, most, most, local_addr="localhost")


def meet(nodes: list[RoundRendezvous]) -> list[RendezvousInfo]:
    with ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(lambda one: one.next_rendezvous(), nodes))


def test_a_meeting_does_not_look_at_the_stack(server: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 0.12 s of processor time, in each step."""
    nodes = [RoundRendezvous(c10d(server, 2)) for _ in range(2)]
    monkeypatch.setattr(inspect, "stack", lambda *given: pytest.fail("inspect.stack()"))
    assert [one.world_size for one in meet(nodes)] == [2, 2]


def check_two_rounds(nodes: list[RoundRendezvous]) -> list[RendezvousInfo]:
    meet(nodes)
    first = nodes[0].round_id
    assert nodes[1].round_id == first
    nodes[0].post_note("lost", "rank 0 was killed")
    assert [one.read_note("lost") for one in nodes] == ["rank 0 was killed"] * 2
    nodes[1].post_note("lost", "rank 1 lost a peer")
    assert nodes[0].read_note("lost") == "rank 0 was killed"
    nodes[1].post_note("lost", "rank 1 had not ended", replace=True)
    assert nodes[0].read_note("lost") == "rank 1 had not ended"

    nodes[1].restarts += 1
    met = meet(nodes)
    assert nodes[0].round_id == nodes[1].round_id != first
    assert [one.restarts for one in nodes] == [1, 1]
    assert [one.read_note("lost") for one in nodes] == [None, None]
    assert os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    return met


def test_nodes_agree_on_an_id_a_store_and_the_restarts_of_each_round(server: TCPStore) -> None:
    nodes = [RoundRendezvous(c10d(server, 2)) for _ in range(2)]
    met = check_two_rounds(nodes)
    stores = [not_none(one.bootstrap_store_info) for one in met]
    places = {(one.master_addr, one.master_port) for one in stores}
    assert len(places) == 1
    control_plane = TCPStore(*places.pop(), is_master=False, timeout=timedelta(seconds=10))
    assert control_plane.add("a_fresh_counter", 1) == 1
    assert all(one.shutdown() for one in nodes)


def test_nodes_with_fixed_numbers_wait_for_each_other_at_each_round() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    handlers = [StaticTCPRendezvous("localhost", port, rank, 2, "job", 30) for rank in range(2)]
    met = check_two_rounds([RoundRendezvous(one) for one in handlers])
    assert {not_none(one.bootstrap_store_info).master_port for one in met} == {port}
