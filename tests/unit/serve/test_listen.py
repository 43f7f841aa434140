"""Connections to the server's socket."""

from __future__ import annotations

import asyncio
import socket

from disttrain.serve.process import listen


def test_an_answer_is_sent_at_once() -> None:
    """Without TCP_NODELAY every answer but the first of a connection takes 40 ms longer."""
    listener = listen("127.0.0.1", 0)

    async def accepted() -> int:
        options: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            options.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            try:
                return await options
            finally:
                writer.close()

    assert asyncio.run(accepted()) == 1
