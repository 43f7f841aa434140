"""A client that keeps connections busy with one request after the other, and looks at every answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .requests import Sent, draw, faults_of

_ANSWER_S = 120.0


@dataclass
class Seen:
    """What has come back."""

    statuses: Counter[int] = field(default_factory=Counter)
    """0: the client went away."""
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def ask(
    port: int,
    images: Sequence[bytes],
    expected: Sequence[dict[str, Any]],
    count: int,
    seed: int,
    connections: int,
    on_progress: Callable[[int], None],
) -> Seen:
    """Send `count` requests over so many connections. `on_progress` is told the number of answers after each."""
    seen, chance = Seen(), random.Random(seed)
    began = time.monotonic()

    async def work() -> None:
        left = iter(range(count))
        await asyncio.gather(*(connection(left) for _ in range(connections)))

    async def connection(left: Any) -> None:
        streams = None
        for _ in left:
            sent = draw(images, chance)
            try:
                streams = await _exchange(port, streams, sent, seen, expected)
            except (OSError, EOFError, TimeoutError, asyncio.TimeoutError) as error:
                streams = None
                seen.faults.append(f"{error!r} for {sent.data[:80]!r}")
            on_progress(seen.statuses.total() + len(seen.faults))
        if streams is not None:
            streams[1].close()

    asyncio.run(work())
    seen.seconds = time.monotonic() - began
    return seen


async def _exchange(port: int, streams: Any, sent: Sent, seen: Seen, expected: Sequence[dict[str, Any]]) -> Any:
    """The streams for the next request; None where the server has closed them, or the client."""
    reader, writer = streams or await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent.data)
    if not sent.statuses:
        writer.close()
        seen.statuses[0] += 1
        return None
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _ANSWER_S)
    lines = head.lower().split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines[1:] if line)
    body = await asyncio.wait_for(reader.readexactly(int(headers[b"content-length"])), _ANSWER_S)
    status = int(lines[0].split()[1])
    seen.statuses[status] += 1
    if fault := faults_of(sent, status, body, expected):
        seen.faults.append(fault)
    if headers.get(b"connection") == b"close":
        writer.close()
        return None
    return reader, writer
