"""All ranks of a job meet at rank zero over plain TCP, without torch: a broken or differing torch is to be found, too.

Rank zero asks, the others answer: requests and answers are JSON behind their length. The ports are MASTER_PORT, where
no agent has it, and some that all derive alike from the job.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from disttrain.errors import PeerLostError
from disttrain.launch.env import RankEnv
from disttrain.launch.env.reading import hashed_port

_PORTS, _MOST_BYTES = 4, 1 << 22
_ATTEMPT_S, _WELCOME_S, _PAUSE_S = 2.0, 8.0, 0.05
ANSWER_S = 30.0
"""How long rank zero waits for one answer, where the request does not say otherwise."""

Message = dict[str, Any]
Serve = Mapping[str, Callable[[Message], Message]]


class Line:
    """One connection between rank zero and another rank."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def peer(self) -> str:
        """The address of the other side."""
        return str(self._connection.getpeername()[0]).removeprefix("::ffff:")

    def send(self, message: Message) -> None:
        """Raises OSError where the other one is gone."""
        data = json.dumps(message).encode()
        self._connection.sendall(struct.pack(">I", len(data)) + data)

    def recv(self, timeout_s: float) -> Message:
        """Raises OSError where the other one is gone, silent for that long, or speaks of something else."""
        deadline = time.monotonic() + timeout_s
        size = struct.unpack(">I", self._read(4, deadline))[0]
        if size > _MOST_BYTES:
            raise OSError("no message of a doctor")
        try:
            message = json.loads(self._read(size, deadline))
        except ValueError:
            raise OSError("no message of a doctor") from None
        if not isinstance(message, dict):
            raise OSError("no message of a doctor")
        return message

    def ask(self, what: str, timeout_s: float = ANSWER_S, **details: Any) -> Message:
        """The answer of another rank. Raises OSError."""
        self.send({"ask": what, **details})
        return self.recv(timeout_s)

    def close(self) -> None:
        """The other side reads an end."""
        self._connection.close()

    def _read(self, count: int, deadline: float) -> bytes:
        data = b""
        while len(data) < count:
            self._connection.settimeout(max(0.01, deadline - time.monotonic()))
            part = self._connection.recv(count - len(data))
            if not part:
                raise OSError("the connection was closed")
            data += part
        return data


def meeting_ports(env: RankEnv) -> list[int]:
    """Where rank zero may listen, in the order in which all try them."""
    job = f"{env.run_id}/{env.master_addr}/{env.master_port}"
    derived = [hashed_port(f"{job}/doctor/{number}") for number in range(_PORTS)]
    return derived if env.agent_store or not env.master_port else [env.master_port, *derived]


def token(env: RankEnv) -> str:
    """What tells a rank of this job from any other program that connects."""
    words = (env.run_id, env.restart_count, env.master_addr, env.master_port)
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


@contextlib.contextmanager
def gathered(env: RankEnv, wait_s: float) -> Iterator[tuple[dict[int, Line], list[Message]]]:
    """On rank zero: the lines to all ranks that have come within `wait_s`, and what each process said of itself: a
    second one that takes itself for the same rank is heard, and sent away.

    Raises PeerLostError where there is no port to listen at.
    """
    server = _listen(env)
    lines: dict[int, Line] = {}
    told: list[Message] = []
    try:
        with server:
            _accept(server, env, wait_s, lines, told)
        yield lines, told
    finally:
        for line in lines.values():
            line.close()


def _listen(env: RankEnv) -> socket.socket:
    for port in meeting_ports(env):
        for family in (socket.AF_INET6, socket.AF_INET):
            server = socket.socket(family)
            try:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                server.bind(("", port))
                server.listen(1024)
            except OSError:
                server.close()
                continue
            return server
    raise PeerLostError(
        f"the ports {', '.join(map(str, meeting_ports(env)))} are all in use on {socket.gethostname()}: rank 0 listens "
        "at one of them for the other ranks. Export another MASTER_PORT on every rank."
    )


def _accept(server: socket.socket, env: RankEnv, wait_s: float, lines: dict[int, Line], told: list[Message]) -> None:
    """Until every rank is there. Who connects and says nothing holds nobody up."""
    deadline, known = time.monotonic() + wait_s, token(env)
    with selectors.DefaultSelector() as waiting:
        waiting.register(server, selectors.EVENT_READ)
        while len(told) < env.world_size - 1 and (left := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                if key.fileobj is server:
                    connection = server.accept()[0]
                    waiting.register(connection, selectors.EVENT_READ, Line(connection))
                    continue
                waiting.unregister(key.fileobj)
                try:
                    hello = key.data.recv(_ATTEMPT_S)
                    rank = int(hello["rank"])
                    if hello.get("token") != known:
                        raise OSError("of another job")
                    told.append(hello)
                    key.data.send({"welcome": rank != 0 and rank not in lines})
                    if rank != 0 and lines.setdefault(rank, key.data) is key.data:
                        continue
                except (OSError, KeyError, ValueError, TypeError):
                    pass
                key.data.close()
        for key in list(waiting.get_map().values()):
            if key.fileobj is not server:
                key.data.close()


def attend(env: RankEnv, facts: Message, serve: Serve, wait_s: float) -> int:
    """On any other rank: tell rank zero of itself, answer its questions; the exit code that it gives at the end.

    Raises PeerLostError where rank zero cannot be reached, or is gone before the end.
    """
    line = _connect(env, facts, time.monotonic() + wait_s)
    with contextlib.closing(line):
        try:
            while True:
                request = line.recv(wait_s + 4 * ANSWER_S)
                if request.get("ask") == "end":
                    return int(request["code"])
                line.send(serve[str(request.get("ask"))](request))
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise PeerLostError(f"rank 0 at {env.master_addr} is gone in the middle of the doctor: {error}.") from None


def _connect(env: RankEnv, facts: Message, deadline: float) -> Line:
    ports, wrong = meeting_ports(env), ""
    hello = {"token": token(env), "rank": env.rank, "facts": facts}
    while time.monotonic() < deadline:
        for port in ports:
            try:
                line = Line(socket.create_connection((env.master_addr, port), timeout=_ATTEMPT_S))
            except OSError as error:
                wrong = _explain(error, env.master_addr, port, ports)
                continue
            try:
                line.send(hello)
                if line.recv(_WELCOME_S).get("welcome"):
                    return line
                raise PeerLostError(
                    f"another process than this one on {socket.gethostname()} is rank {env.rank} of the job already. "
                    "Start each rank once, with a number of its own."
                )
            except OSError:
                wrong = f"{env.master_addr}:{port} answers, but not as rank 0 of this job"
            line.close()
        time.sleep(_PAUSE_S)
    raise PeerLostError(
        f"rank {env.rank} on {socket.gethostname()} does not reach rank 0: {wrong}. Every node must know rank 0's host "
        "by that name and reach it by TCP: look at MASTER_ADDR, /etc/hosts or the name server, and firewalls."
    )


def _explain(error: OSError, host: str, port: int, ports: Sequence[int]) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name {host} is not known here ({error.strerror})"
    if isinstance(error, TimeoutError):
        return f"nothing comes back from {host}:{port} (a firewall drops it, or the host is down)"
    return f"{host} refuses or drops the ports {', '.join(map(str, ports))} ({error.strerror or error})"
