"""What every request passes: the API key, its time, and the headers of its answer."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

from disttrain.log import log

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from disttrain.serve.service import Service

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_GUARDED = "/v1/"
_KNOWN = ("/v1/predict", "/v1/detect", "/v1/model")
"""The paths that metrics tell apart: others are of a client's making."""


class Guard:
    """Around the whole application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        key = service.settings.api_key
        self._key_digest = None if key is None else _digest(key.strip().encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Exchange(self, scope, receive, send).run()

    def refusal(self, scope: Scope) -> dict[str, str] | None:
        """Headers of a 401 for a request without the key that it needs; None for one that may pass."""
        if self._key_digest is None or not scope["path"].startswith(_GUARDED):
            return None
        given = b""
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                given = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                given = value[7:]
        passes = hmac.compare_digest(_digest(given.strip()), self._key_digest)  # of equal length, in constant time
        return None if passes else {"WWW-Authenticate": "Bearer"}

    async def call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application behind it."""
        await self._app(scope, receive, send)

    @property
    def service(self) -> Service:
        """Behind it."""
        return self._service


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard, self._scope, self._receive, self._send = guard, scope, receive, send
        self._status = 0
        self._body_came = False
        self._out_of_time = False

    async def run(self) -> None:
        began = time.monotonic()
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end() -> None:
            self._out_of_time = True
            task.cancel()

        timer = loop.call_later(self._guard.service.settings.limits.request_s, end)
        try:
            await self._answer()
        except asyncio.CancelledError:
            if not self._out_of_time:
                raise
            if hasattr(task, "uncancel"):  # Python 3.11
                task.uncancel()
            await self._say_late()
        except Exception:
            log.exception("%s %s failed", self._scope["method"], self._scope["path"])
            await self._say(500, "The server has failed. Its log says why.")
        finally:
            timer.cancel()
            self._count(time.monotonic() - began)

    async def _answer(self) -> None:
        headers = self._guard.refusal(self._scope)
        if headers is not None:
            await self._say(401, "Give the API key as Authorization: Bearer KEY, or X-API-Key: KEY.", headers)
            return
        await self._guard.call(self._scope, self._watched_receive, self._watched_send)

    async def _say_late(self) -> None:
        limit = f"{self._guard.service.settings.limits.request_s:g} s"
        if self._body_came:
            await self._say(504, f"There is no answer within {limit}.")
        else:
            await self._say(408, f"The request did not come within {limit}.", {"Connection": "close"})

    async def _watched_receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body"):
            self._body_came = True
        return message

    async def _watched_send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {**message, "headers": [*message["headers"], *self._headers(message["headers"])]}
        await self._send(message)

    def _headers(self, given: Any) -> list[tuple[bytes, bytes]]:
        names = {name for name, _ in given}
        added = list(_HEADERS)
        if b"cache-control" not in names:
            added.append((b"cache-control", b"no-store"))
        if b"x-model-version" not in names:
            model = self._guard.service.live.current
            added.append((b"x-model-version", model.version.encode()))
            added.append((b"x-model-weights-sha256", model.spec.weights_sha256.encode()))
        if self._guard.service.draining and b"connection" not in names:
            added.append((b"connection", b"close"))  # the next request goes to a server that stays
        return added

    async def _say(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        """An answer that is not the application's, unless its own has begun."""
        if self._status:
            return
        model = self._guard.service.live.current.identity
        body = json.dumps({"detail": detail, "model": model}).encode()
        named = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        encoded = [(name.lower().encode(), value.encode()) for name, value in named.items()]
        await self._watched_send({"type": "http.response.start", "status": status, "headers": encoded})
        await self._send({"type": "http.response.body", "body": body})

    def _count(self, seconds: float) -> None:
        path = self._scope["path"] if self._scope["path"] in _KNOWN else "other"
        metrics = self._guard.service.metrics
        metrics.requests.labels(path, str(self._status or 499)).inc()  # 499: the client has gone
        if path != "other":
            metrics.seconds.labels(path).observe(seconds)
