"""Pods start in any order, and their names are known some time after that. Here each waits for where all meet."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from types import FrameType

from disttrain.errors import ConfigError, PeerLostError, Preempted
from disttrain.launch.env import NodeEnv, RankEnv, bare_address, is_loopback
from disttrain.launch.stop import STOP_SIGNALS
from disttrain.system.waits import announced

TIMEOUT_VARIABLE = "DISTTRAIN_MEETING_TIMEOUT_S"

_TIMEOUT_S = 600.0  # another pod's image may have to be fetched
_PAUSE_S, _CONNECT_S = 0.5, 5.0
_DEFAULT_PORT = 29400  # of torchrun


def await_meeting_place(env: RankEnv | NodeEnv) -> None:
    """Return once the place's name is known and, where this pod is not that place, its port answers.

    Raises PeerLostError after DISTTRAIN_MEETING_TIMEOUT_S seconds (600), Preempted where the pod is asked to stop.
    """
    place = _place(env)
    if place is None or is_loopback(place[0]):
        return
    host, port, is_own = place
    timeout_s = _timeout_s()
    deadline = time.monotonic() + timeout_s
    with _stoppable(host), announced(f"waiting for {host}:{port}, where the pods meet"):
        error = _retry(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), deadline)
        if error is not None:
            raise PeerLostError(
                f"{host}: after {timeout_s:g} s its name is still not known ({error}). The pods meet there, and a "
                "headless Service names them: look whether it is there and selects the pods. The same command goes on."
            )
        if _is_this_machine(host) if is_own is None else is_own:
            return
        error = _retry(lambda: socket.create_connection((host, port), timeout=_CONNECT_S).close(), deadline)
        if error is not None:
            raise PeerLostError(
                f"{host}:{port}: nobody answers after {timeout_s:g} s ({error}). The pods meet there: look whether the "
                "pod of that name runs, and whether a NetworkPolicy keeps them apart. The same command goes on."
            )


def _place(env: RankEnv | NodeEnv) -> tuple[str, int, bool | None] | None:
    """Host, port, and whether it is this pod that listens there; None where its name decides."""
    if isinstance(env, RankEnv):
        in_pod = env.launcher == "pytorchjob" and env.world_size > 1
        return (env.master_addr, env.master_port, env.rank == 0) if in_pod else None
    if env.standalone:
        return None
    if env.rdzv_endpoint is not None:
        host, colon, port = env.rdzv_endpoint.rpartition(":")
        known = (host, int(port)) if colon and port.isdecimal() else (env.rdzv_endpoint, _DEFAULT_PORT)
        return bare_address(known[0]), known[1], None
    if env.master_addr is not None and env.master_port is not None:
        return env.master_addr, env.master_port, env.node_rank == 0
    return None


def _is_this_machine(host: str) -> bool:
    """Whether a known name is that of this pod, which then has to listen there itself."""
    if socket.gethostname() in (host, host.partition(".")[0]):
        return True
    with contextlib.suppress(OSError):
        for family, kind, _, _, (address, *_) in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
                probe.bind((address, 0))  # only an own address can be bound to
                return True
    return False


def _retry(attempt: Callable[[], object], deadline: float) -> OSError | None:
    """The last error, None once an attempt has succeeded."""
    while True:
        try:
            attempt()
        except OSError as error:
            if time.monotonic() > deadline:
                return error
            time.sleep(_PAUSE_S)
        else:
            return None


@contextlib.contextmanager
def _stoppable(host: str) -> Iterator[None]:
    """A container's first process ignores every signal that it has no handler for."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Preempted(f"asked to stop while waiting for {host}: nothing had begun. The same command again goes on.")

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _timeout_s() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, str(_TIMEOUT_S))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{TIMEOUT_VARIABLE}={text!r}: a number of seconds above 0, or leave it unset.")
    return value
