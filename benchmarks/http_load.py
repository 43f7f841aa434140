"""A small HTTP client that keeps connections busy with one request after the other, and times every answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BOUNDARY = "disttrain-benchmark-boundary"


@dataclass(frozen=True)
class Load:
    """What a run of the client has seen."""

    requests_per_s: float
    seconds: np.ndarray
    """float64 [n]: of every answer."""
    failed: int
    """Answers with another status than 200."""

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.seconds, percent)) * 1000


def multipart_request(path: str, field: str, image: bytes, host: str = "127.0.0.1") -> bytes:
    """The bytes of a POST with one image."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="chip.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    body = head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    lines = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return lines.encode() + body


def run_load(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """So many connections, each with one request under way, for so long."""
    return asyncio.run(_run(port, requests, connections, seconds))


async def _run(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    until = time.monotonic() + seconds
    began = time.monotonic()
    parts = await asyncio.gather(
        *(_connection(port, [*requests[index:], *requests[:index]], until) for index in range(connections))
    )
    took_s = time.monotonic() - began
    all_seconds = np.concatenate([times for times, _ in parts])
    return Load(len(all_seconds) / took_s, all_seconds, sum(failed for _, failed in parts))


async def _connection(port: int, requests: Sequence[bytes], until: float) -> tuple[np.ndarray, int]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    times: list[float] = []
    failed = at = 0
    try:
        while time.monotonic() < until:
            began = time.monotonic()
            writer.write(requests[at % len(requests)])
            at += 1
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            times.append(time.monotonic() - began)
            failed += not head.startswith(b"HTTP/1.1 200")
    finally:
        writer.close()
    return np.array(times), failed
