"""A mail client that does exactly what it is told: raw octets out, raw replies in, with limits.

It parses nothing but reply codes, corrects nothing, and shares no code with the gateway: what it
finds wrong is wrong on the wire.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

_CHUNK_OCTETS = 64 * 1024


class ClosedError(Exception):
    """The server closed the connection where more was due."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply as received.

    Attributes:
        wire: all its lines with their line ends.
    """

    wire: bytes

    @property
    def code(self) -> int:
        """Return the code of its last line."""
        return int(self.wire.splitlines()[-1][:3])

    @property
    def lines(self) -> list[str]:
        """Return its lines without line ends."""
        return self.wire.decode("latin-1").removesuffix("\r\n").split("\r\n")


class Client:
    """One connection to an SMTP server.

    Attributes:
        received: every octet that came, in order.
    """

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        *,
        source: str | None = None,
        limit_s: float = 30.0,
    ) -> None:
        """Connect.

        Args:
            port: of the server.
            host: of the server; a path for a unix socket.
            source: our own address: any of 127.0.0.0/8 plays another client.
            limit_s: for each wait.
        """
        if host.startswith("/"):
            self._socket: socket.socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(limit_s)
            self._socket.connect(host)
        else:
            address = (source, 0) if source else None
            self._socket = socket.create_connection((host, port), limit_s, address)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._limit_s = limit_s
        self._unread = bytearray()
        self.received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Return our own port."""
        return int(self._socket.getsockname()[1])

    def wait_at_most(self, limit_s: float) -> None:
        """Have another limit for each wait from now on."""
        self._limit_s = limit_s
        self._socket.settimeout(limit_s)

    def send(self, octets: bytes) -> None:
        """Send octets as they are."""
        self._socket.sendall(octets)

    def send_slowly(self, octets: bytes, chunk_octets: int) -> None:
        """Send octets in small writes that are segments of their own."""
        for start in range(0, len(octets), chunk_octets):
            self._socket.sendall(octets[start : start + chunk_octets])

    def line(self) -> bytes:
        """Return the next line, with its line end.

        Raises:
            ClosedError: the connection ended before one was complete.
            TimeoutError: nothing came.
        """
        while (end := self._unread.find(b"\n")) < 0:
            self._receive()
        taken = bytes(self._unread[: end + 1])
        del self._unread[: end + 1]
        return taken

    def answer(self) -> Answer:
        """Return the next reply, with all its lines."""
        lines = [self.line()]
        while lines[-1][3:4] == b"-":
            lines.append(self.line())
        return Answer(b"".join(lines))

    def command(self, text: bytes | str) -> Answer:
        """Send one command, without its CRLF here, and return the reply."""
        self.send((text.encode() if isinstance(text, str) else text) + b"\r\n")
        return self.answer()

    def greet(self, name: str = "client.test") -> Answer:
        """Read the banner, say EHLO, and return the reply to it."""
        banner = self.answer()
        assert banner.code == 220, banner
        return self.command(f"EHLO {name}")

    def start_tls(self, context: ssl.SSLContext | None = None) -> Answer:
        """Say STARTTLS and shake hands if it may be; any certificate will do."""
        reply = self.command("STARTTLS")
        if reply.code == 220:
            self.shake_hands(context)
        return reply

    def shake_hands(self, context: ssl.SSLContext | None = None) -> None:
        """Begin TLS on the connection as it is."""
        if context is None:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._socket = context.wrap_socket(self._socket, server_hostname="gateway.test")

    def is_closed(self) -> bool:
        """Wait for the end of the connection; say whether it came, and nothing before it."""
        try:
            self._receive()
        except ClosedError:
            return not self._unread
        except TimeoutError:
            return False
        return False

    def is_quiet(self, for_s: float = 0.05) -> bool:
        """Say whether nothing comes for a moment."""
        self._socket.settimeout(for_s)
        try:
            self._receive()
        except (ClosedError, TimeoutError):
            pass
        finally:
            self._socket.settimeout(self._limit_s)
        return not self._unread

    def half_close(self) -> None:
        """Say that we have said all, and go on listening."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Cut the connection with a RST instead of ending it."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """End the connection without QUIT."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _receive(self) -> None:
        try:
            received = self._socket.recv(_CHUNK_OCTETS)
        except ConnectionError as error:
            raise ClosedError(f"{error} after {bytes(self.received[-200:])!r}") from error
        if not received:
            raise ClosedError(f"closed after {bytes(self.received[-200:])!r}")
        self._unread += received
        self.received += received


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one message, as its client saw it.

    Attributes:
        mail: reply to MAIL.
        rcpt: reply to each RCPT, in order.
        data: reply to DATA, None if it was not sent.
        final: reply to the dot, None if content was not sent or the connection ended before it.
        was_lost: whether the connection ended before all was answered.
        took_s: from the first command to the end.
    """

    mail: Answer | None = None
    rcpt: tuple[Answer, ...] = ()
    data: Answer | None = None
    final: Answer | None = None
    was_lost: bool = False
    took_s: float = 0.0

    @property
    def is_accepted(self) -> bool:
        """Say whether the message is no longer the client's."""
        return self.final is not None and self.final.code // 100 == 2

    @property
    def accepted(self) -> tuple[bool, ...]:
        """Say for each recipient whether a retry is not due."""
        return tuple(self.is_accepted and reply.code // 100 == 2 for reply in self.rcpt)

    @property
    def last(self) -> Answer | None:
        """Return the reply that decided."""
        refusals = [reply for reply in self.rcpt if reply.code // 100 != 2]
        return self.final or self.data or (refusals[-1] if refusals else self.mail)


@dataclass(slots=True)
class _Progress:
    mail: Answer | None = None
    rcpt: list[Answer] = field(default_factory=list)
    data: Answer | None = None
    final: Answer | None = None


def stuffed(message: bytes) -> bytes:
    """Put a dot before each dot that begins a line, and end the content."""
    ended = message if message.endswith(b"\r\n") or not message else message + b"\r\n"
    return (b"\r\n" + ended).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


def deliver(
    port: int,
    sender: str,
    recipients: Sequence[str],
    message: bytes,
    *,
    mail_parameters: str = "",
    host: str = "127.0.0.1",
    source: str | None = None,
    limit_s: float = 30.0,
) -> Delivery:
    """Send one message over a connection of its own, in lock step.

    Args:
        port: of the server.
        sender: reverse-path without brackets.
        recipients: forward-paths without brackets.
        message: octets as the sender means them, CRLF line ends, dots not stuffed.
        mail_parameters: behind MAIL.
        host: of the server, or the path of a unix socket.
        source: our own address.
        limit_s: for each wait.

    Raises:
        OSError: nobody listens.
    """
    with Client(port, host, source=source, limit_s=limit_s) as client:
        # Whoever answered the connection may be killed before any of this.
        try:
            client.greet()
        except (ClosedError, ConnectionError):
            return Delivery(was_lost=True)
        delivery = deliver_over(client, sender, recipients, message, mail_parameters)
        if not delivery.was_lost:
            with contextlib.suppress(ClosedError, OSError):
                client.command("QUIT")
        return delivery


def deliver_over(
    client: Client,
    sender: str,
    recipients: Sequence[str],
    message: bytes,
    mail_parameters: str = "",
) -> Delivery:
    """Send one message over a connection that has been greeted."""
    progress = _Progress()
    started = time.monotonic()
    was_lost = False
    try:
        mail = f"FROM:<{sender}> {mail_parameters}".strip()
        _converse(client, progress, mail, recipients, message)
    except (ClosedError, TimeoutError, OSError):
        was_lost = True
    return Delivery(
        progress.mail,
        tuple(progress.rcpt),
        progress.data,
        progress.final,
        was_lost,
        time.monotonic() - started,
    )


def _converse(
    client: Client, progress: _Progress, mail: str, recipients: Sequence[str], message: bytes
) -> None:
    progress.mail = client.command(f"MAIL {mail}")
    if progress.mail.code // 100 != 2:
        return
    for recipient in recipients:
        progress.rcpt.append(client.command(f"RCPT TO:<{recipient}>"))
    if not any(reply.code // 100 == 2 for reply in progress.rcpt):
        client.command("RSET")
        return
    progress.data = client.command("DATA")
    if progress.data.code == 354:
        client.send(stuffed(message))
        progress.final = client.answer()
