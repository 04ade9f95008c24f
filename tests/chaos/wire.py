"""A proxy before a Redis server: sees what the list is told, and loses it when it should."""

from __future__ import annotations

import asyncio
import re
from typing import cast

from tests.chaos.ledger import Ledger, now

_QUEUE_ID = re.compile(rb"Q\d{10}")
_TAIL_OCTETS = 10


class RedisProxy:
    """Passes on what comes, connection by connection.

    Attributes:
        port: where it listens.
        loses_requests: what clients say vanishes.
        loses_replies: what the server says vanishes.
    """

    def __init__(self, ledger: Ledger, server_port: int) -> None:
        self.ledger = ledger
        self.server_port = server_port
        self.port = 0
        self.loses_requests = False
        self.loses_replies = False
        self._server: asyncio.Server | None = None
        self.sides: set[_Side] = set()

    async def open(self, port: int) -> None:
        """Listen."""
        self.port = port
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(self, None), "127.0.0.1", port)

    async def close(self) -> None:
        """Stop listening, cut everything."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset all connections."""
        for side in tuple(self.sides):
            side.cut()

    def freeze(self) -> None:
        """Leave all connections there are half-open: nothing comes through any more, nor an end."""
        for side in tuple(self.sides):
            side.is_frozen = True


class _Side(asyncio.Protocol):
    """One end of a connection: the client's, or the server's."""

    def __init__(self, proxy: RedisProxy, other: _Side | None) -> None:
        self._proxy = proxy
        self._other = other
        self._is_client = other is None
        self._transport: asyncio.Transport | None = None
        self._early = bytearray()
        self._tail = b""
        self._dialling: asyncio.Task[None] | None = None
        self.is_frozen = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's derive from nothing
        self._proxy.sides.add(self)
        if self._is_client:
            self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, self._other = await loop.create_connection(
                lambda: _Side(self._proxy, self), "127.0.0.1", self._proxy.server_port
            )
        except OSError:
            self.cut()
            return
        self._other.send(bytes(self._early))

    def data_received(self, data: bytes) -> None:
        if self._is_client:
            if self.is_frozen or self._proxy.loses_requests:
                return
            self._look(data)
            if self._other is None:
                self._early += data
                return
        elif self.is_frozen or self._proxy.loses_replies:
            return
        if self._other is not None:
            self._other.send(data)

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._transport = None
        self._proxy.sides.discard(self)
        if self._other is not None and not self.is_frozen:
            self._other.cut()

    def send(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _look(self, data: bytes) -> None:
        """Note which acceptances the list is told of: a record's note is the queue id."""
        text = self._tail + data
        self._tail = text[-_TAIL_OCTETS:]
        for found in _QUEUE_ID.findall(text):
            self._proxy.ledger.remembered.setdefault(found.decode(), now())
