"""What slurm/tune.sbatch starts on each node: the node's part of a Ray cluster, which ends with the step.

`HEAD PORT FOLDER`: the first task is the head of the cluster, at HEAD:PORT; the others wait for it. No sleep, no guess.
"""

from __future__ import annotations

from disttrain.system.import_path import leave_working_directory

if __name__ == "__main__":
    leave_working_directory()

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from types import FrameType

from disttrain.errors import ConfigError, PeerLostError, exit_code_of, say
from disttrain.launch.env.launchers import seems_another_rank
from disttrain.system.import_path import RUN_MODULE
from disttrain.system.streams import secure_streams
from disttrain.system.waits import announced
from disttrain.tune.ray_setup import prepare_environ

_HEAD_S = 300.0
_POLL_S = 0.2
_STARTS = 4
_START_S = 120.0  # whatever ends after that had started


def start_command(environ: Mapping[str, str], head: str, port: int, folder: str) -> list[str]:
    """`ray start ...` for this task of a Slurm step."""
    is_head = not seems_another_rank(environ)
    where = [
        "--head",
        f"--node-ip-address={head}",
        f"--port={port}",
        "--include-dashboard=false",
        f"--temp-dir={folder}",
    ]
    options = where if is_head else [f"--address={head}:{port}"]
    cpus = environ.get("SLURM_CPUS_ON_NODE")
    return [
        sys.executable, RUN_MODULE, "ray.scripts.scripts", "start", *options, "--block", "--disable-usage-stats",
        *([f"--num-cpus={cpus}"] if cpus else []),
    ]  # fmt: skip


def wait_for_port(head: str, port: int, timeout_s: float = _HEAD_S) -> None:
    """Until somebody listens there. Raises PeerLostError."""
    deadline = time.monotonic() + timeout_s
    with announced(f"waiting for the head of the Ray cluster at {head}:{port}"):
        while True:
            try:
                socket.create_connection((head, port), timeout=_POLL_S).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise PeerLostError(
                        f"nobody listens at {head}:{port} after {timeout_s:g} s ({error}): the head of the Ray cluster "
                        "has not started. Look at its output above."
                    ) from None
                time.sleep(_POLL_S)


def check_port(head: str, port: int) -> None:
    """Raise ConfigError where another program has the port at which the head is to listen. (Ray would join whoever it
    is, or say so after a minute.)"""
    with contextlib.suppress(OSError):
        socket.create_connection((head, port), timeout=_POLL_S).close()
        raise ConfigError(
            f"port {port} of {head} is in use: the head of the Ray cluster cannot listen there. Submit the job again, "
            "whose number gives it another port."
        )


def run(head: str, port: int, folder: str) -> int:
    """Be the node until the step ends it; the exit code of Ray's."""
    prepare_environ(os.environ)
    if seems_another_rank(os.environ):
        wait_for_port(head, port)
    else:
        check_port(head, port)
    asked: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def end(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if process is not None:
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    try:
        for attempt in range(1, _STARTS + 1):
            began = time.monotonic()
            process = subprocess.Popen(start_command(os.environ, head, port, folder))
            code = abs(process.wait())
            # Ray gives itself 30 s for its start, which a busy node may need more than once.
            if not code or asked or attempt == _STARTS or time.monotonic() - began > _START_S:
                return code
            say(f"Ray has not started here (exit code {code}); once more")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """The command line."""
    secure_streams()
    head, port, folder = sys.argv[1:]
    return exit_code_of(lambda: run(head, int(port), folder))


if __name__ == "__main__":
    sys.exit(main())
