"""The interface that leads to another host."""

from __future__ import annotations

import os
import socket

import pytest

from disttrain.comm.network_interface import told_to_libraries, variables
from disttrain.system.network import address_towards, interface_of


def test_the_loopback_address_is_that_of_lo() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"


def test_every_own_address_by_which_packets_leave_is_that_of_an_interface_here() -> None:
    own = address_towards("192.0.2.1")  # a network for examples: nobody is there, and nothing is sent
    if own:
        assert interface_of(own) in [name for _, name in socket.if_nameindex()]


def test_no_interface_has_the_address_of_another_host_and_nobody_leads_to_an_unknown_name() -> None:
    assert interface_of("192.0.2.1") is None
    assert interface_of("2001:db8::1") is None
    assert address_towards("no-such-host.invalid") == ""


def test_gloo_and_nccl_are_told_the_interface_unless_the_user_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    with told_to_libraries("eth1"):
        assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("eth1", "ib0")
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    assert variables("eth1") == {"GLOO_SOCKET_IFNAME": "eth1", "NCCL_SOCKET_IFNAME": "=eth1"}
    assert variables("lo") == {"GLOO_SOCKET_IFNAME": "lo"}
    assert variables(None) == {}
