"""A TCP proxy that can lose what passes through it: replies, requests, or the whole connection."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

_CHUNK_OCTETS = 64 * 1024


class TcpProxy:
    """Stands before a server on loopback; what it does may be changed at any time.

    Attributes:
        port: where it listens.
        swallows_replies: what the server says is lost.
        swallows_requests: what the client says is lost; the server never hears of it.
        connections: how many clients have come.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.swallows_replies = False
        self.swallows_requests = False
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Reset all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        self.connections += 1
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            self._writers.discard(writer)
            writer.transport.abort()
            return
        self._writers.add(there)
        requests = asyncio.ensure_future(self._copy(reader, there, is_request=True))
        replies = asyncio.ensure_future(self._copy(there_reader, writer, is_request=False))
        await asyncio.wait((requests, replies), return_when=asyncio.FIRST_COMPLETED)
        for task, end in ((requests, there), (replies, writer)):
            task.cancel()
            end.transport.abort()
        await asyncio.wait((requests, replies))
        self._writers -= {writer, there}

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while octets := await reader.read(_CHUNK_OCTETS):
                if not (self.swallows_requests if is_request else self.swallows_replies):
                    writer.write(octets)
                    await writer.drain()
