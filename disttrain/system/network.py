"""From which of this host's addresses and network interfaces packets to another host leave."""

from __future__ import annotations

import array
import contextlib
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFCONF = 0x8912  # linux/sockios.h
_IFREQ, _MOST = 40, 256  # bytes of a struct ifreq; interfaces
_IPV6 = Path("/proc/net/if_inet6")


def address_towards(host: str) -> str:
    """The own address from which packets to a host leave; empty where there is no route, or nobody knows the name."""
    with contextlib.suppress(OSError):
        for family, kind, _, _, place in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
                probe.connect(place)  # sends nothing
                return str(probe.getsockname()[0])
    return ""


def interface_of(address: str) -> str | None:
    """The name of the network interface that has an address, on Linux; None where none has."""
    if ":" in address:
        wanted = ipaddress.ip_address(address.partition("%")[0]).packed.hex()
        with contextlib.suppress(OSError):
            for line in _IPV6.read_text().splitlines():
                fields = line.split()
                if fields[0] == wanted:
                    return fields[5]
        return None
    found = array.array("B", bytes(_IFREQ * _MOST))
    request = struct.pack("iL", len(found), found.buffer_info()[0])
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        size = struct.unpack("iL", fcntl.ioctl(probe.fileno(), _SIOCGIFCONF, request))[0]
        for at in range(0, size, _IFREQ):
            entry = found[at : at + _IFREQ].tobytes()
            if socket.inet_ntoa(entry[20:24]) == address:
                return entry[:16].split(b"\0", 1)[0].decode().partition(":")[0]  # eth0:1 is another address of eth0
    return None
