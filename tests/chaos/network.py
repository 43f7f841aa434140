"""Two nodes on one machine with a network between them that can be cut: network namespaces and a pair of veth."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

_numbers = itertools.count()


class Network:
    """Two nodes of one rank each. Needs root."""

    def __init__(self, name: str) -> None:
        self._nodes = [f"{name}-a", f"{name}-b"]

    @classmethod
    @contextlib.contextmanager
    def made(cls) -> Iterator[Network]:
        """A network, taken down again at the end."""
        name = f"chaos-{os.getpid()}-{next(_numbers)}"
        network = cls(name)
        try:
            network._make()
            yield network
        finally:
            for node in network._nodes:  # the namespace's devices go with it
                subprocess.run(["ip", "netns", "delete", node], check=False)

    def _make(self) -> None:
        first, second = self._nodes
        for node in self._nodes:
            _ip("netns", "add", node)
        _ip("-n", first, "link", "add", "net0", "type", "veth", "peer", "name", "net0", "netns", second)
        for number, node in enumerate(self._nodes, start=1):
            _ip("-n", node, "address", "add", f"10.77.0.{number}/24", "dev", "net0")
            _ip("-n", node, "link", "set", "lo", "up")
            _ip("-n", node, "link", "set", "net0", "up")

    def commands(self, launcher: Sequence[str], arguments: Sequence[str]) -> list[list[str]]:
        """What to run for each node."""
        options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "chaos"]
        return [
            ["nsenter", f"--net=/run/netns/{node}", *launcher, *options, "--rdzv-endpoint", "10.77.0.1:29400"]
            # torchrun knows its own machine by name only: it has to be told which node hosts the rendezvous.
            + ["--rdzv-conf", f"is_host={int(number == 1)}", "--local-addr", f"10.77.0.{number}", *arguments]
            for number, node in enumerate(self._nodes, start=1)
        ]

    @staticmethod
    def variables() -> dict[str, str]:
        """The nodes share the machine's name, which leads nowhere in them: gloo is told the device."""
        return {"GLOO_SOCKET_IFNAME": "net0", "PYTHON": sys.executable}

    def cut(self) -> None:
        """The second node's network device goes down: packets are lost, and nobody is told."""
        _ip("-n", self._nodes[1], "link", "set", "net0", "down")

    def mend(self) -> None:
        """It is up again."""
        _ip("-n", self._nodes[1], "link", "set", "net0", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
