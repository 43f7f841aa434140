"""The network interface by which a rank reaches the others: the one that routes to rank zero's host.

gloo and NCCL choose by themselves otherwise, from the host's own name or the order of the interfaces, and at times take
the loopback device or a container's bridge, by which no other node is reached.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from disttrain.comm.control_plane import ControlPlane
from disttrain.launch.env import is_loopback
from disttrain.log import log
from disttrain.system.network import address_towards, interface_of

_LOOPBACK = "lo"
_GLOO, _NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def find_interface(control_plane: ControlPlane) -> str | None:
    """The interface of this host that leads to the other ranks, `lo` where all are here; None where that is not known.

    Every rank has to call it. Raises PeerLostError where one does not come.
    """
    env = control_plane.env
    if env.on_one_machine:
        return _LOOPBACK if _LOOPBACK in dict(socket.if_nameindex()).values() else None
    store = control_plane.store
    own = address_towards(env.master_addr)
    store.set(f"network/{env.rank}", own)
    control_plane.barrier("network")
    if is_loopback(own or "localhost"):  # rank zero's host, which many an /etc/hosts calls 127.0.1.1
        found = store.multi_get([f"network/{rank}" for rank in range(env.world_size)])
        others = [address.decode() for address in found]
        if all(one and is_loopback(one) for one in others):  # each has reached rank zero's host without leaving its own
            return _LOOPBACK
        peer = next((one for one in others if one and not is_loopback(one)), None)
        own = address_towards(peer) if peer else ""
    name = interface_of(own) if own else None
    if name is not None:
        log.info("ranks talk over %s", " ".join(f"{key}={value}" for key, value in variables(name).items()))
    return name


def variables(interface: str | None) -> dict[str, str]:
    """What tells gloo and NCCL of the interface, where the user has not said otherwise. NCCL finds `lo` alone."""
    if interface is None:
        return {}
    wanted = {_GLOO: interface} if interface == _LOOPBACK else {_GLOO: interface, _NCCL: f"={interface}"}
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


@contextlib.contextmanager
def told_to_libraries(interface: str | None) -> Iterator[None]:
    """Within it gloo and NCCL, which read these variables when a process group is made, take the interface."""
    added = {name: value for name, value in variables(interface).items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
