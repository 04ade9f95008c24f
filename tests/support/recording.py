"""What a recording server keeps, and what it can be told to answer: values only."""

from __future__ import annotations

import ipaddress
import re
import struct
import threading
from dataclasses import dataclass, field
from enum import Enum

_XTEXT = re.compile(rb"\+([0-9A-F]{2})")


class Then(Enum):
    """What follows an answer."""

    GO_ON = "go on"
    CLOSE = "close"  # after the answer, if there is one
    RESET = "reset"  # RST in place of the end of the connection
    SILENCE = "silence"  # take everything in, say nothing more


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sink does about one command.

    Attributes:
        octets: sent as they are; none for silence.
        delay_s: before they are sent.
        gate: waited for before they are sent.
        then: what follows.
    """

    octets: bytes = b""
    delay_s: float = 0.0
    gate: threading.Event | None = None
    then: Then = Then.GO_ON


@dataclass(frozen=True, slots=True)
class Line:
    """A command as received.

    Attributes:
        octets: with its line end.
        at_s: monotonic time of its arrival.
    """

    octets: bytes
    at_s: float

    @property
    def text(self) -> str:
        """Return it without line end."""
        return self.octets.decode("latin-1").rstrip("\r\n")

    @property
    def verb(self) -> str:
        """Return its first word in upper case."""
        return (self.text.split(" ", 1)[0]).upper()


@dataclass(frozen=True, slots=True)
class Transaction:
    """One message as received, whether accepted or not.

    Attributes:
        mail: argument of MAIL, such as ``FROM:<a@b> SIZE=3``.
        rcpts: arguments of the RCPT commands that were accepted.
        content: between DATA and the final dot, as on the wire.
        is_ended: whether the dot came.
        replies: to the dot; one per recipient for LMTP; none if the connection ended first.
        at_s: monotonic time of the dot, or of the end.
        identity: what XCLIENT, XFORWARD or PROXY said.
    """

    mail: str
    rcpts: tuple[str, ...]
    content: bytes
    is_ended: bool
    replies: tuple[bytes, ...]
    at_s: float
    identity: dict[str, str]

    @property
    def message(self) -> bytes:
        """Return the content as its author meant it."""
        return (b"\r\n" + self.content).replace(b"\r\n.", b"\r\n")[2:]

    @property
    def sender(self) -> str:
        """Return the reverse-path without brackets."""
        return _path(self.mail)

    @property
    def recipients(self) -> tuple[str, ...]:
        """Return the forward-paths without brackets, of those that were accepted at RCPT."""
        return tuple(_path(rcpt) for rcpt in self.rcpts)

    @property
    def delivered(self) -> tuple[str, ...]:
        """Return the forward-paths for which the message was accepted after the dot."""
        if len(self.replies) == 1:
            return self.recipients if self.replies[0][:1] == b"2" else ()
        pairs = zip(self.recipients, self.replies, strict=False)
        return tuple(recipient for recipient, reply in pairs if reply[:1] == b"2")


@dataclass(slots=True)
class Session:
    """One connection.

    Attributes:
        number: counts the sink's sessions.
        raw: every octet received, content included.
        lines: commands in order; ``.`` for the end of content, empty if the connection ended first.
        transactions: those that came to content.
        identity: what XCLIENT, XFORWARD or PROXY said last.
        is_over: whether the connection has ended.
        is_tls: whether TLS began.
    """

    number: int
    raw: bytearray = field(default_factory=bytearray)
    lines: list[Line] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    identity: dict[str, str] = field(default_factory=dict)
    is_over: bool = False
    is_tls: bool = False


def _path(argument: str) -> str:
    """Return what stands in the brackets of a MAIL or RCPT argument."""
    return argument.partition("<")[2].rpartition(">")[0]


def attributes(argument: str) -> dict[str, str]:
    """Read XCLIENT or XFORWARD attributes, values decoded from xtext."""
    pairs = (word.partition("=") for word in argument.split())
    return {name.upper(): _plain(value.encode()) for name, _, value in pairs}


def _plain(xtext: bytes) -> str:
    return _XTEXT.sub(lambda match: bytes((int(match[1], 16),)), xtext).decode("latin-1")


def proxy_v2(header: bytes) -> dict[str, str]:
    """Read addresses and ports from a PROXY header of version 2."""
    command, family = header[12], header[13]
    width = {0x11: 4, 0x21: 16}.get(family, 0)
    body = header[16:]
    if not width:
        return {"COMMAND": str(command & 0xF), "FAMILY": "UNSPEC"}
    source, target = body[:width], body[width : 2 * width]
    port, target_port = struct.unpack("!HH", body[2 * width : 2 * width + 4])
    return {
        "COMMAND": str(command & 0xF),
        "FAMILY": "TCP4" if width == 4 else "TCP6",
        "ADDR": str(ipaddress.ip_address(source)),
        "DESTADDR": str(ipaddress.ip_address(target)),
        "PORT": str(port),
        "DESTPORT": str(target_port),
    }
