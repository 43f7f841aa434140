"""The network interfaces, and which one leads to the other ranks."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from pathlib import Path

from disttrain.doctor.facts.model import Network
from disttrain.launch.env import RankEnv, limit_name_lookups
from disttrain.system.network import address_towards, interface_of

_DEVICES, _INFINIBAND = Path("/sys/class/net"), Path("/sys/class/infiniband")


def find_network(env: RankEnv) -> Network:
    """As this process sees it. Before it listens at MASTER_PORT itself."""
    several = not env.on_one_machine
    limit_name_lookups(os.environ)
    began = time.monotonic()
    name_error, towards = (
        (_name_error(socket.gethostname()), interface_towards(env.master_addr)) if several else (None, None)
    )
    took_s = time.monotonic() - began
    return Network(
        interfaces=_interfaces(),
        infiniband=sorted(one.name for one in _INFINIBAND.iterdir()) if _INFINIBAND.is_dir() else [],
        host_name_error=name_error,
        lookup_s=took_s if several else None,
        towards=towards,
        port_error=_port_error(env.master_port) if env.hosts_store and env.world_size > 1 else None,
    )


def interface_towards(host: str) -> str | None:
    """The interface by which packets leave to a host; empty without a route, None where it cannot be told."""
    address = address_towards(host)
    return interface_of(address) if address else ""


def _interfaces() -> dict[str, bool]:
    """By the kernel's flag IFF_UP: `operstate` of a working device may be `unknown`."""
    found = {}
    for _, name in socket.if_nameindex():
        up = True
        with contextlib.suppress(OSError, ValueError):
            up = bool(int((_DEVICES / name / "flags").read_text(), 16) & 1)
        found[name] = up
    return found


def _name_error(name: str) -> str | None:
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        return f"{name}: {error.strerror}"
    return None


def _port_error(port: int) -> str | None:
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen(1)
        except OSError as error:
            return None if error.errno == errno.EAFNOSUPPORT else error.strerror
    return None
