"""The milter: the same screening behind ``smtpd_milters``, for those who cannot move port 25.

What a milter cannot do: it never learns whether the mail server has accepted a message in the end.
It must be the last milter, and its sightings are provisional.

Opens no sockets: it serves those it is given. Fails towards the mail server by closing the
connection; what happens to mail then is the mail server's choice (``milter_default_action`` in
Postfix's MILTER_README).
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from gateway.core.rule import Network, address_of, is_within
from gateway.desk import Desk
from gateway.faces.milter_message import MilterSettings
from gateway.faces.milter_session import MilterSession
from gateway.ports import Meter


class MilterServer:
    """Serves milter connections on sockets that somebody else has opened.

    Attributes:
        sessions: connections that are open.
        settings: the postmaster's; may be replaced at any time.
        allowed: networks whose mail servers may connect, empty for all; likewise.
    """

    def __init__(
        self,
        current_desk: Callable[[], Desk],
        meter: Meter,
        settings: MilterSettings,
        allowed: Sequence[Network] = (),
    ) -> None:
        """Listen to nobody yet.

        Args:
            current_desk: asked once per message.
            meter: told of connections and of faults in the protocol.
            settings: the postmaster's.
            allowed: networks whose mail servers may connect; empty for all.
        """
        self.settings = settings
        self.allowed = tuple(allowed)
        self._current_desk = current_desk
        self._meter = meter
        self._servers: list[asyncio.AbstractServer] = []
        self._open: set[MilterSession] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @property
    def sessions(self) -> int:
        """Count the connections that are open."""
        return len(self._open)

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve on listening TCP and unix sockets; they are closed with the server."""
        loop = asyncio.get_running_loop()
        for listener in sockets:
            self._servers.append(await _serve(loop, self._session, listener))

    async def close(self, grace_s: float) -> None:
        """Take no more connections; let messages under way come to their end.

        A connection without one is closed at once. It may last for as long as some SMTP client has
        nothing to say, and until we are back, nobody else's mail is screened.

        Args:
            grace_s: after which the rest are cut. What they were about is released.
        """
        for server in self._servers:
            server.close()
        for session in tuple(self._open):
            session.finish()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_empty.wait(), grace_s)
        for session in tuple(self._open):
            session.cut()
        await self._is_empty.wait()

    def admit(self, session: MilterSession, transport: asyncio.BaseTransport) -> bool:
        """Let a connection in, or complain about it."""
        if len(self._open) >= self.settings.sessions:
            self.complain("milter_refused", "limits.sessions is reached")
            return False
        peer = transport.get_extra_info("peername")
        is_remote = isinstance(peer, tuple)  # else a unix socket, which has permissions
        if self.allowed and is_remote and not is_within(address_of(peer[0]), self.allowed):
            self.complain("milter_refused", f"{peer[0]} is not in listen.clients")
            return False
        self._open.add(session)
        self._is_empty.clear()
        return True

    def dismiss(self, session: MilterSession) -> None:
        """Forget a connection that has ended, and has nothing under way any more."""
        self._open.discard(session)
        if not self._open:
            self._is_empty.set()

    def complain(self, event: str, reason: str) -> None:
        """Log what is wrong with a mail server, or with us."""
        self._current_desk().journal.complain(event, reason)

    def _session(self) -> MilterSession:
        return MilterSession(self, self._current_desk, self._meter)


async def serve_milter(
    sockets: Sequence[socket.socket],
    current_desk: Callable[[], Desk],
    meter: Meter,
    settings: MilterSettings,
    allowed: Sequence[Network] = (),
) -> MilterServer:
    """Serve milter connections; see `MilterServer`."""
    server = MilterServer(current_desk, meter, settings, allowed)
    await server.start(sockets)
    return server


async def _serve(
    loop: asyncio.AbstractEventLoop,
    factory: Callable[[], MilterSession],
    listener: socket.socket,
) -> asyncio.AbstractServer:
    if listener.family != socket.AF_UNIX:
        return await loop.create_server(factory, sock=listener)
    if sys.version_info >= (3, 13) and isinstance(loop, asyncio.SelectorEventLoop):
        # Other workers listen on the same socket: its path must outlive this server.
        return await loop.create_unix_server(factory, sock=listener, cleanup_socket=False)
    return await loop.create_unix_server(factory, sock=listener)
