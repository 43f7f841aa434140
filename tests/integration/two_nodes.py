"""Two nodes on this machine, each in a network namespace with a name of its own, joined by one cable. Needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from .commands import start

_NETWORK = "10.79.0"
_PROGRAMS = ("ip", "nsenter", "unshare", "mount")


def why_not() -> str:
    """Why there can be none here; empty where they can be made."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed (Debian: tests/system_packages.sh)" if missing else ""


class TwoNodes:
    """`near` and `far`, which know each other by name and see the files of this machine."""

    names = ("near", "far")

    def __init__(self, folder: Path) -> None:
        self._folder, self._prefix = folder, f"nodes-{os.getpid()}"

    @classmethod
    @contextlib.contextmanager
    def made(cls, folder: Path) -> Iterator[TwoNodes]:
        """The two, gone at the end."""
        nodes = cls(folder)
        try:
            nodes._make()
            yield nodes
        finally:
            for name in cls.names:
                subprocess.run(["ip", "netns", "delete", nodes._space(name)], check=False, capture_output=True)

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _make(self) -> None:
        lines = ["127.0.0.1 localhost", *(f"{_NETWORK}.{number} {name}" for number, name in enumerate(self.names, 1))]
        (self._folder / "hosts").write_text("\n".join([*lines, ""]))
        (self._folder / "resolv.conf").write_text("")  # no name server: an unknown name fails at once
        for name in self.names:
            _run("ip", "netns", "add", self._space(name))
            self.ip(name, "link", "set", "lo", "up")
        peer = self._space("far")
        self.ip("near", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", peer)
        for number, name in enumerate(self.names, 1):
            self.ip(name, "address", "add", f"{_NETWORK}.{number}/24", "dev", "eth0")
            self.ip(name, "link", "set", "eth0", "up")

    def add_name(self, name: str, alias: str) -> None:
        """From now on both nodes know `name` by another name too."""
        with (self._folder / "hosts").open("a") as file:
            file.write(f"{_NETWORK}.{self.names.index(name) + 1} {alias}\n")

    def ip(self, name: str, *words: str) -> None:
        """`ip WORDS` on a node."""
        _run("ip", "-n", self._space(name), *words)

    def start(
        self, name: str, command: Sequence[str], folder: Path, env: dict[str, str], setup: str = ""
    ) -> subprocess.Popen[str]:
        """Start a command on a node, after `setup` (shell) in its mount namespace."""
        binds = "".join(f"mount --bind {self._folder}/{file} /etc/{file};" for file in ("hosts", "resolv.conf"))
        script = f'hostname {name}; {binds} {setup}\nexec "$@"'
        inside = ["nsenter", f"--net=/run/netns/{self._space(name)}", "unshare", "--mount", "--uts"]
        return start([*inside, "sh", "-ec", script, "sh", *command], folder, env)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
