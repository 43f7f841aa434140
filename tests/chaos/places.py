"""Where a training runs, and what can be done to the place while it does."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import clock
from .network import Network
from .scenario import Place

_REPOSITORY = Path(__file__).resolve().parents[2]
_DISK_BYTES = 12 << 20
_DISTTRAIN = (sys.executable, "-m", "disttrain", "train")
# Root without these is bound by the permissions of files, as everyone else is.
_POWERS = "-dac_override,-dac_read_search,-fowner"


def why_not(place: Place) -> str | None:
    """Why a training cannot run in such a place here; None where it can."""
    root = os.geteuid() == 0
    if place == "small_disk" and not root:
        return "not root: a small file system cannot be mounted"
    if place == "permission" and root and not shutil.which("setpriv"):
        return "root without setpriv (package util-linux): root may write everywhere"
    if place == "clock":
        return clock.why_not()
    if place == "nodes":
        if not root:
            return "not root: network namespaces cannot be made"
        if not (shutil.which("ip") and shutil.which("nsenter")):
            return "no ip or no nsenter (packages iproute2, util-linux)"
    return None


class Site:
    """A run directory in its place."""

    def __init__(self, place: Place, folder: Path, network: Network | None) -> None:
        self.place, self.folder, self._network = place, folder, network
        self.disk = folder / "disk"
        self.run_dir = self.disk / "run"
        self._filler = self.disk / "filler"
        self._forbidden: list[Path] = []
        self.disk.mkdir(parents=True, exist_ok=True)
        self._clock = clock.Clock(folder) if place == "clock" else None

    def commands(self, workers: int, arguments: Sequence[str]) -> list[list[str]]:
        """The command that trains, or the one of each node."""
        arguments = [str(_REPOSITORY / "configs" / "synthetic_planes.yaml"), *arguments, "--run-dir", str(self.run_dir)]
        if self._network is not None:
            launcher = str(_REPOSITORY / "launchers" / "torchrun.sh")
            return self._network.commands([launcher], arguments)
        prefix = []
        if self.place == "permission" and os.geteuid() == 0:
            prefix = ["setpriv", f"--bounding-set={_POWERS}"]
        return [[*prefix, *_DISTTRAIN, *arguments, "--workers", str(workers)]]

    def variables(self) -> dict[str, str]:
        """What the training's environment has beside ours."""
        if self._clock is not None:
            return self._clock.variables()
        return self._network.variables() if self._network is not None else {"PYTHON": sys.executable}

    def fill(self) -> None:
        """Leave no free block on the disk."""
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while file.write(b"\0" * 4096):
                pass

    def forbid(self) -> None:
        """Take the permission to write from the run directory and its folders."""
        self._forbidden = [self.run_dir, *(path for path in self.run_dir.rglob("*") if path.is_dir())]
        for path in self._forbidden:
            with contextlib.suppress(FileNotFoundError):  # a checkpoint has been renamed meanwhile
                path.chmod(0o555)

    def jump(self, offset_s: float) -> None:
        """Set the training's clock to the machine's and this many seconds."""
        assert self._clock is not None
        self._clock.jump(offset_s)

    def cut(self) -> None:
        """Take the network from one of the nodes."""
        assert self._network is not None
        self._network.cut()

    def heal(self) -> None:
        """The disk has room again, the permissions are back, and so is the network. A clock stays where it is."""
        self._filler.unlink(missing_ok=True)
        for path in self._forbidden:
            with contextlib.suppress(FileNotFoundError):
                path.chmod(0o755)
        self._forbidden = []
        if self._network is not None:
            self._network.mend()


@contextlib.contextmanager
def site(place: Place, folder: Path) -> Iterator[Site]:
    """A place below `folder`, taken down again at the end."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network.made()) if place == "nodes" else None
        one = Site(place, folder, network)
        if place == "small_disk":
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "chaos", str(one.disk)], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", str(one.disk)], check=True)
        stack.callback(one.heal)
        yield one
