"""One session with a server: SMTP or LMTP (RFC 5321 section 3, RFC 2033 section 4).

A session belongs to one client: its identity is handed over before the first MAIL, and nobody
else's mail goes through it. Commands and content go out octet for octet, and replies come back so.
Replies are values; failures are `UnreachableError` before the session stands, `IdentityError` if
the identity was not taken over, `LostError` afterwards.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from gateway.core import answer as our_answer
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
from gateway.errors import IdentityError, LostError, UnreachableError
from gateway.ports import Observe

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
_CLASSES = ("0", "1", "2", "3", "4", "5")
_READY = 220
_OK = 250


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server listens: a host and port, or the path of a unix socket."""

    is_lmtp: bool
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """Show as in the configuration."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'lmtp' if self.is_lmtp else 'smtp'}://{self.path or f'{host}:{self.port}'}"


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How to talk to the servers.

    Attributes:
        hand_over: how SMTP servers are told who the client is; LMTP ones get XCLIENT if they offer
            it.
        hostname: our name in EHLO.
        tls: context for STARTTLS, None for never.
        is_tls_required: whether to go on without TLS where it is not offered.
        connect_timeout_s: for the connection itself, for the greeting, and for a TLS handshake.
        command_timeout_s: for each reply, and for a block of content to be taken.
        final_reply_timeout_s: for the reply to the final dot.
    """

    hand_over: HandOver
    hostname: str
    tls: ssl.SSLContext | None
    is_tls_required: bool
    connect_timeout_s: float
    command_timeout_s: float
    final_reply_timeout_s: float


class DownstreamSession:
    """One session with a server.

    Attributes:
        capabilities: what the server offers in this session.
        announced: what it last offered in reply to EHLO; nothing where the client said HELO, and
            so did we.
        is_per_recipient: whether it answers content for each recipient.
    """

    def __init__(
        self,
        wire: DownstreamWire,
        server: ServerAddress,
        settings: SessionSettings,
        observe: Observe,
    ) -> None:
        """Take over a fresh connection."""
        self._wire = wire
        self._server = server
        self._settings = settings
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        # A server that refuses the client itself: its reply to whatever the client asks.
        self._refusal: Reply | None = None
        # XFORWARD as it is told to this server, and whether the next MAIL comes under it as yet.
        self._introduction: Sequence[bytes] = ()
        self._is_introduced = False
        self.capabilities: Capabilities = NOTHING
        self.announced: Capabilities = NOTHING
        self.is_per_recipient = server.is_lmtp

    @property
    def waited_s(self) -> float:
        """Seconds spent waiting for the server so far (`Downstream`)."""
        return self._wire.waited_s

    async def greet(self, client: Client | None, started_s: float) -> None:
        """Go from the server's greeting to the point where MAIL may follow.

        Args:
            client: whose session this becomes; None only to look at the capabilities.
            started_s: monotonic time when we began to connect.

        Raises:
            UnreachableError: the server does not want a session, or TLS fails where it is required.
            IdentityError: it does not take over the identity.
            LostError: the connection broke.
        """
        hand_over = HandOver.NONE if self._server.is_lmtp else self._settings.hand_over
        if hand_over is HandOver.PROXY:
            self._send_proxy_header(client)
        # Behind a PROXY header a server first looks the client's name up, however long that takes.
        is_about_client = hand_over is HandOver.PROXY and client is not None
        greeting = await self._greeting(
            self._settings.command_timeout_s
            if is_about_client
            else self._settings.connect_timeout_s,
            started_s,
        )
        if greeting.code != _READY:
            if is_about_client and greeting.code >= 400:
                self._refusal = greeting
                return
            raise UnreachableError(f"{self._server}: {greeting.text}")
        own_name = self._settings.hostname
        is_transparent = hand_over is HandOver.PROXY and client is not None and client.helo
        name = client.helo if client is not None and is_transparent else own_name
        await self._hello(name, client)
        if self._settings.tls is not None and self._refusal is None:
            await self._begin_tls(self._settings.tls, name, client)
        if client is None or self._refusal is not None:
            return
        if hand_over is HandOver.XCLIENT or (
            self._server.is_lmtp and self.capabilities.has("XCLIENT")
        ):
            await self._xclient(client)
        elif hand_over is HandOver.XFORWARD:
            await self._xforward(client)

    async def _greeting(self, timeout_s: float, started_s: float) -> Reply:
        """Read the server's answer to the connection itself (RFC 5321 section 4.2.3: 220, 554)."""
        try:
            (greeting,) = await self._wire.replies(1, timeout_s)
        except LostError:
            self._observe("connect", "lost", time.monotonic() - started_s)
            raise
        self._observe("connect", _CLASSES[greeting.code // 100], time.monotonic() - started_s)
        return greeting

    async def exchange(self, commands: Sequence[bytes]) -> Sequence[Reply]:
        """Send commands, pipelined if offered, and return their replies (`Downstream`)."""
        if self._refusal is not None:
            return [self._refusal] * len(commands)
        if self._introduction and any(_label(command) == "mail" for command in commands):
            return await self._exchange_introduced(commands)
        return await self._exchange(commands)

    async def _exchange_introduced(self, commands: Sequence[bytes]) -> Sequence[Reply]:
        """Say once more who the client is, just before the MAIL among these commands.

        The end of a transaction ends what XFORWARD said, and so does RSET (Postfix, `mail_reset`).

        Raises:
            LostError: as ever; also if the server takes it no longer, before any content goes out.
        """
        if self._is_introduced:
            self._is_introduced = False
            return await self._exchange(commands)
        at = next(i for i, command in enumerate(commands) if _label(command) == "mail")
        end = at + len(self._introduction)
        answers = await self._exchange([*commands[:at], *self._introduction, *commands[at:]])
        refused = [answer.text for answer in answers[at:end] if answer.code != _OK]
        if refused:
            self._wire.abort()
            raise LostError(f"{self._server} refused XFORWARD: {refused[0]}")
        return [*answers[:at], *answers[end:]]

    async def _exchange(self, commands: Sequence[bytes]) -> Sequence[Reply]:
        if len(commands) > 1 and not self.capabilities.has("PIPELINING"):
            return [reply for command in commands for reply in await self._exchange([command])]
        started = time.monotonic()
        try:
            self._wire.send(commands)
            answers = await self._wire.replies(len(commands), self._settings.command_timeout_s)
        except LostError:
            elapsed_s = time.monotonic() - started
            for command in commands:
                self._observe(_label(command), "lost", elapsed_s)
            raise
        elapsed_s = time.monotonic() - started
        for command, answer in zip(commands, answers, strict=True):
            self._observe(_label(command), _CLASSES[answer.code // 100], elapsed_s)
        return answers

    def write(self, content: bytes) -> Awaitable[None]:
        """Send content in wire form (`Downstream`)."""
        return self._wire.write(content, self._settings.command_timeout_s)

    async def finish(self, recipients: int) -> Sequence[Reply]:
        """Send the final dot, wait for the outcome (`Downstream`)."""
        count = recipients if self.is_per_recipient else 1
        started = time.monotonic()
        if (early := self._wire.early_refusal) is not None:
            self._observe("content", _CLASSES[early.code // 100], 0.0)
            return [early] * count
        try:
            self._wire.finish(END_OF_DATA, count)
            answers = await self._wire.replies(count, self._settings.final_reply_timeout_s)
        except LostError:
            self._observe("content", "lost", time.monotonic() - started)
            answers = self._wire.unasked()
            if not answers:
                raise
            # Of LMTP's replies the first have come: whom they are about has got the message.
            answers += [our_answer.LOST] * (count - len(answers))
        elapsed_s = time.monotonic() - started
        for answer in answers:
            self._observe("content", _CLASSES[answer.code // 100], elapsed_s)
        return answers

    async def close(self, *, politely: bool) -> None:
        """End the session (`Downstream`)."""
        if politely:
            self._wire.leave(b"QUIT\r\n")
        else:
            self._wire.abort()

    async def _asked(self, command: bytes) -> Reply:
        (answer,) = await self.exchange([command])
        return answer

    async def _hello(self, name: str, client: Client | None) -> None:
        """Say LHLO, EHLO or, for a client that did so itself, HELO; note the capabilities.

        A server that refuses the name a client has given refuses the client: that is its answer to
        whatever the client asks, and says nothing of the server's health.
        """
        is_plain = client is not None and not client.is_extended and name == client.helo
        verb = "LHLO" if self._server.is_lmtp else "HELO" if is_plain else "EHLO"
        answer = await self._asked(f"{verb} {name}\r\n".encode("latin-1", "replace"))
        self.capabilities = NOTHING
        if not answer.is_accepted and verb == "EHLO":
            # RFC 5321 section 3.2: an old server gets HELO.
            answer = await self._asked(f"HELO {name}\r\n".encode("latin-1", "replace"))
        elif answer.is_accepted and verb != "HELO":
            self.capabilities = self.announced = parse_ehlo(answer)
        if answer.code >= 400 and client is not None and name == client.helo:
            self._refusal = answer
        elif not answer.is_accepted:
            raise UnreachableError(f"{self._server}: {answer.text}")

    async def _begin_tls(self, context: ssl.SSLContext, name: str, client: Client | None) -> None:
        """Begin TLS if offered (RFC 3207 section 4), and ask again what is offered within."""
        refusal = "is not offered"
        if self.capabilities.has("STARTTLS"):
            answer = await self._asked(b"STARTTLS\r\n")
            refusal = "" if answer.is_accepted else f"was refused: {answer.text}"
        if refusal:
            if self._settings.is_tls_required:
                raise UnreachableError(f"{self._server}: TLS is required and {refusal}")
            return
        try:
            transport = await self._loop.start_tls(
                self._wire.transport,
                self._wire,
                context,
                server_hostname=self._server.host or None,
                ssl_handshake_timeout=self._settings.connect_timeout_s,
            )
        except (ssl.SSLError, OSError) as error:
            self._observe("starttls", "lost", 0.0)
            raise UnreachableError(f"{self._server}: TLS failed: {error}") from error
        if transport is None:
            raise UnreachableError(f"{self._server}: TLS failed: connection closed")
        self._wire.switch_transport(transport)
        await self._hello(name, client)

    def _send_proxy_header(self, client: Client | None) -> None:
        """Tell the client's address before anything else (PROXY protocol section 2)."""
        header = PROXY_LOCAL_HEADER if client is None else proxy_header(client)
        if header is None:
            raise self._not_handed_on("the client has no address for a PROXY header")
        self._wire.send_raw(header)

    async def _xclient(self, client: Client) -> None:
        """Become the client in the eyes of the server (XCLIENT_README); 220 or nothing."""
        offered = self.capabilities.parameters("XCLIENT").upper().split()
        if not offered:
            raise self._not_handed_on(
                "XCLIENT is not offered; add our address to smtpd_authorized_xclient_hosts"
            )
        answer = await self._asked_to_take_over(xclient_command(client, offered))
        if answer.code != _READY:
            raise IdentityError(f"{self._server} refused XCLIENT: {answer.text}")
        await self._hello(client.helo or self._settings.hostname, client)

    async def _xforward(self, client: Client) -> None:
        """Tell who the client is, for logs and filters (XFORWARD_README)."""
        offered = self.capabilities.parameters("XFORWARD").upper().split()
        if not offered:
            raise self._not_handed_on(
                "XFORWARD is not offered; add our address to smtpd_authorized_xforward_hosts"
            )
        introduction = xforward_commands(client, offered)
        for command in introduction:
            answer = await self._asked_to_take_over(command)
            if answer.code != _OK:
                raise IdentityError(f"{self._server} refused XFORWARD: {answer.text}")
        self._introduction, self._is_introduced = introduction, True

    async def _asked_to_take_over(self, command: bytes) -> Reply:
        """Hand on the identity; a server that breaks off at it has not taken it over, either."""
        try:
            return await self._asked(command)
        except LostError as error:
            raise IdentityError(f"{self._server} did not take over who it is: {error}") from error

    def _not_handed_on(self, reason: str) -> IdentityError:
        self._observe("identity", "lost", 0.0)
        return IdentityError(f"{self._server}: {reason}")


def _label(command: bytes) -> str:
    """Return the metric label of a command."""
    return _LABELS[command[:4].upper()]
