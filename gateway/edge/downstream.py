"""The server that mail is passed to: SMTP and LMTP client (RFC 5321, RFC 2033, RFC 2920).

A session belongs to one client: its identity is handed over before the first MAIL, and nobody else's
mail goes through it. Commands and content go out octet for octet, replies come back likewise.
Replies are values; a connection that fails is `UnreachableError` before a session stands,
`IdentityError` if the identity was not taken over, `LostError` afterwards.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.core.capability import NOTHING, Capabilities, parse_ehlo
from gateway.core.content import END_OF_DATA
from gateway.core.handover import (
    PROXY_LOCAL_HEADER,
    Client,
    HandOver,
    proxy_header,
    xclient_command,
    xforward_commands,
)
from gateway.core.reply import Reply
from gateway.edge.downstream_wire import DownstreamWire
from gateway.errors import DownstreamError, IdentityError, LostError, UnreachableError

Observe = Callable[[str, str, float], None]
"""Takes command, class of the reply ("2" … "5" or "lost") and seconds."""

_QUIT_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server listens: a host and port, or the path of a unix socket."""

    is_lmtp: bool
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """Show as in the configuration."""
        return f"{'lmtp' if self.is_lmtp else 'smtp'}://{self.path or f'{self.host}:{self.port}'}"


@dataclass(frozen=True, slots=True)
class DownstreamSettings:
    """How to talk to the servers.

    Attributes:
        servers: tried in order.
        hand_over: how SMTP servers are told who the client is; LMTP ones get XCLIENT if they offer it.
        hostname: our name in EHLO.
        tls: context for STARTTLS, None for never.
        is_tls_required: whether to go on without TLS where it is not offered.
        connect_timeout_s: for the connection itself.
        command_timeout_s: for each reply, and for a block of content to be taken.
        final_reply_timeout_s: for the reply to the final dot.
    """

    servers: tuple[ServerAddress, ...]
    hand_over: HandOver
    hostname: str
    tls: ssl.SSLContext | None
    is_tls_required: bool
    connect_timeout_s: float
    command_timeout_s: float
    final_reply_timeout_s: float


class DownstreamConnector:
    """Opens sessions, one per client.

    Attributes:
        capabilities: last known ones of a server; nothing before the first session.
        is_up: whether the last attempt succeeded.
    """

    def __init__(self, settings: DownstreamSettings, observe: Observe) -> None:
        """Open nothing yet.

        Args:
            settings: how to talk to the servers.
            observe: called with each command's outcome.
        """
        self._settings = settings
        self._observe = observe
        self.capabilities = NOTHING
        self.is_up = False

    async def open(self, client: Client) -> DownstreamSession:
        """Open a session in the name of a client.

        Raises:
            UnreachableError: no server took a session.
            IdentityError: a server did not take over the client's identity.
        """
        return await self._first(client)

    async def ask_capabilities(self) -> None:
        """Learn the capabilities without a client; no mail may follow.

        Raises:
            UnreachableError: no server took a session.
        """
        session = await self._first(None)
        await session.close(politely=True)

    async def _first(self, client: Client | None) -> DownstreamSession:
        reasons = []
        for server in self._settings.servers:
            try:
                session = await self._connect(server, client)
            except IdentityError:
                self.is_up = False
                raise
            except (OSError, DownstreamError, ssl.SSLError) as error:
                self._observe("connect", "lost", 0.0)
                reasons.append(f"{server}: {error or type(error).__name__}")
            else:
                self.is_up = True
                self.capabilities = session.capabilities
                return session
        self.is_up = False
        raise UnreachableError("; ".join(reasons))

    async def _connect(self, server: ServerAddress, client: Client | None) -> DownstreamSession:
        """Connect, greet, begin TLS, hand over the identity: in this order."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        async with asyncio.timeout(settings.connect_timeout_s):
            if server.path:
                _, wire = await loop.create_unix_connection(
                    lambda: DownstreamWire(loop), server.path
                )
            else:
                _, wire = await loop.create_connection(
                    lambda: DownstreamWire(loop), server.host, server.port
                )
        session = DownstreamSession(wire, server, settings, self._observe)
        try:
            self._observe("connect", "2", time.monotonic() - started)
            await session.greet(client)
        except BaseException:
            wire.abort()
            raise
        return session


class DownstreamSession:
    """One session with a server; the `Downstream` port.

    Attributes:
        capabilities: what the server offers in this session.
    """

    def __init__(
        self,
        wire: DownstreamWire,
        server: ServerAddress,
        settings: DownstreamSettings,
        observe: Observe,
    ) -> None:
        """Take over a fresh connection."""
        self._wire = wire
        self._server = server
        self._settings = settings
        self._observe = observe
        self.capabilities: Capabilities = NOTHING

    async def greet(self, client: Client | None) -> None:
        """Go from the server's greeting to the point where MAIL may follow.

        Args:
            client: whose session this becomes; None only to look at the capabilities.

        Raises:
            UnreachableError: the server does not want a session, or TLS fails where it is required.
            IdentityError: it does not take over the identity.
            LostError: the connection broke.
        """
        hand_over = HandOver.NONE if self._server.is_lmtp else self._settings.hand_over
        if hand_over is HandOver.PROXY:
            self._send_proxy_header(client)
        (greeting,) = await self._wire.replies(1, self._settings.command_timeout_s)
        if greeting.code != 220:
            raise UnreachableError(greeting.text)
        own_name = self._settings.hostname
        is_transparent = hand_over is HandOver.PROXY and client is not None and client.helo
        await self._hello(client.helo if client and is_transparent else own_name, client)
        if self._settings.tls is not None:
            await self._begin_tls(self._settings.tls, own_name, client)
        if client is None:
            return
        if hand_over is HandOver.XCLIENT or (
            self._server.is_lmtp and self.capabilities.has("XCLIENT")
        ):
            await self._xclient(client)
        elif hand_over is HandOver.XFORWARD:
            await self._xforward(client)

    async def exchange(self, commands: Sequence[bytes]) -> Sequence[Reply]:
        """Send commands, pipelined if offered, and return their replies (`Downstream`)."""
        if len(commands) == 1 or self.capabilities.has("PIPELINING"):
            return await self._batch(commands, self._settings.command_timeout_s)
        answers: list[Reply] = []
        for command in commands:
            answers += await self._batch([command], self._settings.command_timeout_s)
        return answers

    async def write(self, content: bytes) -> None:
        """Send content in wire form (`Downstream`)."""
        await self._wire.write(content, self._settings.command_timeout_s)

    async def finish(self, recipients: int) -> Sequence[Reply]:
        """Send the final dot, wait for the outcome (`Downstream`)."""
        count = recipients if self._server.is_lmtp else 1
        started = time.monotonic()
        self._wire.expect(count)
        await self._wire.write(END_OF_DATA, self._settings.command_timeout_s)
        self._wire.flush()
        return await self._answers(["content"] * count, self._settings.final_reply_timeout_s, started)

    async def close(self, *, politely: bool) -> None:
        """End the session (`Downstream`)."""
        if politely:
            try:
                self._wire.send([b"QUIT\r\n"])
                await self._wire.replies(1, _QUIT_TIMEOUT_S)
            except LostError:
                pass  # it was going to end anyway
        self._wire.abort()

    async def _batch(self, commands: Sequence[bytes], timeout_s: float) -> Sequence[Reply]:
        started = time.monotonic()
        self._wire.send(commands)
        return await self._answers([_label(c) for c in commands], timeout_s, started)

    async def _answers(
        self, labels: Sequence[str], timeout_s: float, started: float
    ) -> Sequence[Reply]:
        try:
            answers = await self._wire.replies(len(labels), timeout_s)
        except LostError:
            for label in labels:
                self._observe(label, "lost", time.monotonic() - started)
            raise
        elapsed_s = time.monotonic() - started
        for label, answer in zip(labels, answers, strict=True):
            self._observe(label, str(answer.status_class), elapsed_s)
        return answers

    async def _hello(self, name: str, client: Client | None) -> None:
        """Say LHLO, EHLO or, for a client that did so itself, HELO; note the capabilities."""
        is_plain = client is not None and not client.is_extended and name == client.helo
        verb = "LHLO" if self._server.is_lmtp else "HELO" if is_plain else "EHLO"
        line = f"{verb} {name}\r\n".encode("latin-1", "replace")
        (answer,) = await self._batch([line], self._settings.command_timeout_s)
        if not answer.is_accepted and verb == "EHLO":
            # RFC 5321 section 3.2: an old server gets HELO.
            line = f"HELO {name}\r\n".encode("latin-1", "replace")
            (answer,) = await self._batch([line], self._settings.command_timeout_s)
            self.capabilities = NOTHING
        elif answer.is_accepted:
            self.capabilities = NOTHING if verb == "HELO" else parse_ehlo(answer)
        if not answer.is_accepted:
            raise UnreachableError(answer.text)

    async def _begin_tls(self, context: ssl.SSLContext, name: str, client: Client | None) -> None:
        """Begin TLS if offered (RFC 3207 section 4), and ask again what is offered within."""
        if not self.capabilities.has("STARTTLS"):
            if self._settings.is_tls_required:
                raise UnreachableError("TLS is required and not offered")
            return
        (answer,) = await self._batch([b"STARTTLS\r\n"], self._settings.command_timeout_s)
        if not answer.is_accepted:
            if self._settings.is_tls_required:
                raise UnreachableError(f"TLS is required and was refused: {answer.text}")
            return
        loop = asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(
                self._wire.transport,
                self._wire,
                context,
                server_hostname=self._server.host or None,
                ssl_handshake_timeout=self._settings.connect_timeout_s,
            )
        except (ssl.SSLError, OSError) as error:
            raise UnreachableError(f"TLS failed: {error}") from error
        if transport is None:
            raise UnreachableError("TLS failed: connection closed")
        self._wire.switch_transport(transport)
        await self._hello(name, client)

    def _send_proxy_header(self, client: Client | None) -> None:
        """Tell the client's address before anything else (PROXY protocol section 2)."""
        header = PROXY_LOCAL_HEADER if client is None else proxy_header(client)
        if header is None:
            raise self._not_handed_over("the client has no address for a PROXY header")
        self._wire.send_raw(header)

    async def _xclient(self, client: Client) -> None:
        """Become the client in the eyes of the server (XCLIENT_README); 220 or nothing."""
        offered = self.capabilities.parameters("XCLIENT").upper().split()
        if not offered:
            raise self._not_handed_over(
                "XCLIENT is not offered; "
                "add our address to smtpd_authorized_xclient_hosts"
            )
        (answer,) = await self._batch(
            [xclient_command(client, offered)], self._settings.command_timeout_s
        )
        if answer.code != 220:
            raise IdentityError(f"{self._server} refused XCLIENT: {answer.text}")
        await self._hello(client.helo or self._settings.hostname, client)

    async def _xforward(self, client: Client) -> None:
        """Tell who the client is, for logs and filters (XFORWARD_README)."""
        offered = self.capabilities.parameters("XFORWARD").upper().split()
        if not offered:
            raise self._not_handed_over(
                "XFORWARD is not offered; "
                "add our address to smtpd_authorized_xforward_hosts"
            )
        for command in xforward_commands(client, offered):
            (answer,) = await self._batch([command], self._settings.command_timeout_s)
            if answer.code != 250:
                raise IdentityError(f"{self._server} refused XFORWARD: {answer.text}")

    def _not_handed_over(self, reason: str) -> IdentityError:
        self._observe("identity", "lost", 0.0)
        return IdentityError(f"{self._server}: {reason}")


_LABELS = {
    b"EHLO": "ehlo",
    b"HELO": "ehlo",
    b"LHLO": "ehlo",
    b"STAR": "starttls",
    b"XCLI": "identity",
    b"XFOR": "identity",
    b"MAIL": "mail",
    b"RCPT": "rcpt",
    b"DATA": "data",
    b"RSET": "rset",
}


def _label(command: bytes) -> str:
    """Return the metric label of a command."""
    return _LABELS[command[:4].upper()]
