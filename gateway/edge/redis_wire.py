"""One connection to a Redis server: octets out, replies in.

The wire format (RESP2) is hiredis' business, and only this module knows it. What the commands mean
may not live here, nor which replies belong to whom. Fails with `OSError` or `RefusedError` while it
is being made; later it tells its owner, once, that it is lost.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from hiredis import ProtocolError, Reader, ReplyError, pack_command

Command = tuple[bytes | int, ...]
_NOTHING_YET = object()
# hiredis declares a tuple of exactly one part.
packed = cast("Callable[[Command], bytes]", pack_command)


class RefusedError(Exception):
    """The server is there but will not serve us: wrong password, wrong database, no Redis."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a Redis server is and how to be let in.

    Attributes:
        host: name or address; of no matter if there is a path.
        port: TCP port.
        path: of a unix socket, or ``""``.
        username: ``""`` for the default user.
        password: ``""`` for none.
        database: number.
        tls: None for an open connection.
    """

    host: str
    port: int
    path: str = ""
    username: str = ""
    password: str = ""
    database: int = 0
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        """Return the place as in the configuration, without secrets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{host}:{self.port}"


class Wire(asyncio.Protocol):
    """An open connection.

    Attributes:
        on_replies: called with whatever replies have arrived, in order; refusals among them are
            instances of `ReplyError`.
        on_lost: called once when the connection ends, not after `drop`.
    """

    __slots__ = ("_reader", "_transport", "on_lost", "on_replies")

    def __init__(self) -> None:
        self._reader = Reader(notEnoughData=_NOTHING_YET)
        self._transport: asyncio.Transport | None = None
        self.on_replies: Callable[[list[object]], None] = _unheard
        self.on_lost: Callable[[Exception | None], None] = _unheard

    @property
    def is_open(self) -> bool:
        """Say whether the connection has not ended yet."""
        return self._transport is not None

    def send(self, commands: Sequence[Command]) -> None:
        """Write commands at once; never waits, since callers wait for replies anyway."""
        if self._transport is not None:
            self._transport.write(b"".join(map(packed, commands)))

    def drop(self) -> None:
        """End the connection, replies outstanding or not."""
        self.on_replies = self.on_lost = _unheard
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # Both asyncio and uvloop call with a transport that writes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        gets = self._reader.gets
        replies: list[object] = []
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _NOTHING_YET:
                replies.append(reply)
        except ProtocolError as error:
            on_lost = self.on_lost
            self.drop()
            on_lost(error)
            return
        if replies:
            self.on_replies(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        self.on_lost(exc)


async def dial(server: Server) -> Wire:
    """Connect, and be let in.

    Raises:
        OSError: the server cannot be reached.
        RefusedError: it does not let us in.
    """
    loop = asyncio.get_running_loop()
    if server.path:
        _, wire = await loop.create_unix_connection(Wire, server.path)
    else:
        _, wire = await loop.create_connection(Wire, server.host, server.port, ssl=server.tls)
    try:
        _welcomed(await ask(wire, _introduction(server)))
    except BaseException:
        wire.drop()
        raise
    return wire


async def ask(wire: Wire, commands: Sequence[Command]) -> list[object]:
    """Make one exchange on a wire that nobody owns yet.

    Raises:
        OSError: the connection ended.
    """
    done: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()
    replies: list[object] = []

    def collect(arrived: list[object]) -> None:
        replies.extend(arrived)
        if len(replies) >= len(commands) and not done.done():
            done.set_result(replies)

    def end(error: Exception | None) -> None:
        if not done.done():
            done.set_exception(ConnectionResetError(str(error or "closed by the server")))

    wire.on_replies, wire.on_lost = collect, end
    wire.send(commands)
    return await done


def _introduction(server: Server) -> list[Command]:
    commands: list[Command] = []
    if server.password:
        names = (server.username, server.password) if server.username else (server.password,)
        commands.append((b"AUTH", *(name.encode() for name in names)))
    if server.database:
        commands.append((b"SELECT", server.database))
    commands.append((b"CLIENT", b"SETNAME", b"mailonce"))
    return commands


def _welcomed(replies: Sequence[object]) -> None:
    # The last command is a courtesy that an ACL may forbid.
    for reply in replies[:-1]:
        if isinstance(reply, ReplyError):
            raise RefusedError(str(reply))


def _unheard(_: object) -> None:
    """Nobody listens."""
