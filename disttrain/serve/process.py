"""One process that serves: uvicorn around the application, and how it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from disttrain.comm.device import pick_device
from disttrain.launch.env import RankEnv
from disttrain.log import log
from disttrain.serve.app import build_app
from disttrain.serve.service import Service
from disttrain.serve.settings import ServeSettings

_HEADERS_S = 10.0
"""From a connection to the headers of its first request."""
_KEEP_ALIVE_S = 75
"""Longer than the 60 s for which proxies keep an idle connection, so that it is the proxy that closes it."""
_WAY_OUT_S = 5


class _Protocol(HttpToolsProtocol):
    """Ends connections on which no request comes: uvicorn's own limit begins after the first answer."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(_HEADERS_S, transport.close)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    """Leaves with SIGTERM as a load balancer needs it: first it is no longer ready, then it takes nothing more, then it
    answers what it has taken. SIGINT leaves out the first of these; a second signal all of them."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._on_ready = service, on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave, number)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def _leave(self, number: signal.Signals) -> None:
        if self._service.draining:
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        drain_s = self._service.settings.drain_s if number == signal.SIGTERM else 0.0
        log.info("%s: not ready any more, requests are taken for %g s", number.name, drain_s)
        asyncio.get_running_loop().call_later(drain_s, setattr, self, "should_exit", True)


def log_to_stderr(quiet: bool) -> None:
    """Log lines with their time on standard error, those of uvicorn from warnings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    server_log = logging.getLogger("uvicorn.error")
    server_log.handlers[:] = [handler]
    server_log.propagate = False
    server_log.setLevel(logging.WARNING)


def serve_requests(
    settings: ServeSettings, threads: int, listener: socket.socket, on_ready: Callable[[], None]
) -> None:
    """Load the model, call `on_ready`, answer requests until a signal has ended that.

    `threads`: of this process's share of the cores. Raises what the model directory is refused for.
    """
    service = Service(settings, pick_device(settings.device, RankEnv.alone()), threads)
    config = uvicorn.Config(
        build_app(service),
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.limits.request_s) + _WAY_OUT_S,
        limit_concurrency=settings.limits.connections,
        backlog=2048,
    )
    server = _Server(config, service, on_ready)
    server.run(sockets=[listener])
    if not server.force_exit:
        service.close()
    log.info("every request is answered: leaving")


def listen(host: str, port: int) -> socket.socket:
    """A socket that connections may come to. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named: with it, every answer but the first of a
    # connection waits 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    address: Any = listener.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"
