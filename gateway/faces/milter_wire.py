"""The milter protocol, versions 2 to 6, as octets: packets in, typed fields out, and back.

There is no RFC; libmilter's ``mfdef.h`` names the codes, Postfix's MILTER_README and the sources of
the two mail servers show their use. A packet is a length of four octets, which covers what follows:
one octet of command and the payload. Integers are in network byte order, strings end in NUL.

Events, requests and steps are the protocol's whole tables, used by us or not, so that each can be
held against ``mfdef.h``.

Pure: no IO, and no state but the octets that wait for their packet to be complete. Every function
is total but for `WireError`, after which the stream makes no sense any more.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from gateway.core.reply import Reply

VERSION = 6
OLDEST_VERSION = 2
# Body chunks have at most 65535 octets (MILTER_CHUNK_SIZE), and nobody is asked for larger ones;
# Postfix sends a header field whole, however long header_size_limit lets it get.
MAX_PACKET_OCTETS = 1 << 20

_LENGTH = struct.Struct("!I")
_HEAD = struct.Struct("!IB")
_NEGOTIATION = struct.Struct("!III")
_PORT = struct.Struct("!H")
_MAX_SHOWN = 40
_STRINGS_OF_FIELD = 2


class WireError(ValueError):
    """What came is no milter protocol, or a dialect that we do not speak."""


class Event(IntEnum):
    """Commands of the mail server (``SMFIC_*``)."""

    ABORT = ord("A")
    BODY = ord("B")
    CONNECT = ord("C")
    MACRO = ord("D")
    END_OF_MESSAGE = ord("E")
    HELO = ord("H")
    QUIT_NEW_CONNECTION = ord("K")
    HEADER = ord("L")
    MAIL = ord("M")
    END_OF_HEADER = ord("N")
    NEGOTIATE = ord("O")
    QUIT = ord("Q")
    RCPT = ord("R")
    DATA = ord("T")
    UNKNOWN = ord("U")


class Request(IntFlag):
    """What a milter may ask the server to do (``SMFIF_*``)."""

    ADD_HEADERS = 1 << 0
    CHANGE_BODY = 1 << 1
    ADD_RECIPIENTS = 1 << 2
    DELETE_RECIPIENTS = 1 << 3
    CHANGE_HEADERS = 1 << 4
    QUARANTINE = 1 << 5
    CHANGE_SENDER = 1 << 6
    ADD_RECIPIENTS_WITH_PARAMETERS = 1 << 7
    SET_MACRO_LISTS = 1 << 8


class Step(IntFlag):
    """What the server leaves out, and what it does not wait for (``SMFIP_*``)."""

    NO_CONNECT = 1 << 0
    NO_HELO = 1 << 1
    NO_MAIL = 1 << 2
    NO_RCPT = 1 << 3
    NO_BODY = 1 << 4
    NO_HEADERS = 1 << 5
    NO_END_OF_HEADER = 1 << 6
    NO_REPLY_HEADER = 1 << 7
    NO_UNKNOWN = 1 << 8
    NO_DATA = 1 << 9
    SKIP = 1 << 10
    REJECTED_RECIPIENTS = 1 << 11
    NO_REPLY_CONNECT = 1 << 12
    NO_REPLY_HELO = 1 << 13
    NO_REPLY_MAIL = 1 << 14
    NO_REPLY_RCPT = 1 << 15
    NO_REPLY_DATA = 1 << 16
    NO_REPLY_UNKNOWN = 1 << 17
    NO_REPLY_END_OF_HEADER = 1 << 18
    NO_REPLY_BODY = 1 << 19
    LEADING_SPACE = 1 << 20


class Stage(IntEnum):
    """Points at which macros are sent (``SMFIM_*``)."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    END_OF_MESSAGE = 5
    END_OF_HEADER = 6


_NO_REPLY = {
    Event.CONNECT: Step.NO_REPLY_CONNECT,
    Event.HELO: Step.NO_REPLY_HELO,
    Event.MAIL: Step.NO_REPLY_MAIL,
    Event.RCPT: Step.NO_REPLY_RCPT,
    Event.DATA: Step.NO_REPLY_DATA,
    Event.UNKNOWN: Step.NO_REPLY_UNKNOWN,
    Event.HEADER: Step.NO_REPLY_HEADER,
    Event.END_OF_HEADER: Step.NO_REPLY_END_OF_HEADER,
    Event.BODY: Step.NO_REPLY_BODY,
}


@dataclass(frozen=True, slots=True)
class Negotiation:
    """What one side offers, or both have agreed on.

    Attributes:
        version: of the protocol.
        requests: `Request` flags.
        steps: `Step` flags.
    """

    version: int
    requests: int
    steps: int

    @property
    def answered(self) -> frozenset[int]:
        """Name the events after which the server waits, the end of a message aside."""
        return frozenset(event for event, flag in _NO_REPLY.items() if not self.steps & flag)

    @property
    def has_leading_space(self) -> bool:
        """Say whether field bodies come with the blank behind the colon, and go so."""
        return bool(self.steps & Step.LEADING_SPACE)


@dataclass(frozen=True, slots=True)
class Connection:
    """Who the SMTP client of the server is.

    Attributes:
        name: host name, or the address in brackets.
        address: IP address as text; ``""`` for a unix socket or where the server does not know.
        port: of the client, 0 where there is none.
    """

    name: str
    address: str
    port: int


class PacketReader:
    """Cuts a stream into packets; chunks may be cut anywhere."""

    __slots__ = ("_rest", "_wanted")

    def __init__(self) -> None:
        """Start at the beginning of a packet."""
        self._rest = bytearray()
        self._wanted = _HEAD.size

    @property
    def held_octets(self) -> int:
        """How many octets wait for their packet to be complete."""
        return len(self._rest)

    def feed(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """Take the next octets received.

        Returns:
            Command and payload of each packet that is complete now, in order.

        Raises:
            WireError: a packet without a command, or longer than `MAX_PACKET_OCTETS`.
        """
        if self._rest:
            self._rest += chunk
            # A long packet comes in many chunks, and must not be copied for each of them.
            if len(self._rest) < self._wanted:
                return []
            chunk = bytes(self._rest)
        packets = []
        position, end, wanted = 0, len(chunk), _HEAD.size
        last = end - wanted
        head_of = _HEAD.unpack_from
        while position <= last:
            length, command = head_of(chunk, position)
            if not 1 <= length <= MAX_PACKET_OCTETS:
                raise WireError(f"a packet of {length} octets")
            after = position + 4 + length
            if after > end:
                wanted = after - position
                break
            packets.append((command, chunk[position + 5 : after]))
            position = after
        self._rest = bytearray(chunk[position:])
        self._wanted = wanted
        return packets


def packet(command: int, payload: bytes = b"") -> bytes:
    """Compose a packet of either side."""
    return _HEAD.pack(len(payload) + 1, command) + payload


def strings(*values: bytes) -> bytes:
    """Compose a list of strings; a value ends at its first NUL, which would begin another one."""
    return b"".join(value.partition(b"\0")[0] + b"\0" for value in values)


def parse_strings(payload: bytes) -> tuple[bytes, ...]:
    """Read a list of strings: the arguments of HELO, MAIL and RCPT.

    Raises:
        WireError: none, or the last one does not end.
    """
    if payload[-1:] != b"\0":
        raise WireError(f"not strings: {payload[:_MAX_SHOWN]!r}")
    return tuple(payload[:-1].split(b"\0"))


def parse_negotiation(payload: bytes) -> Negotiation:
    """Read an option negotiation; macro lists behind it are left alone.

    Raises:
        WireError: too short.
    """
    if len(payload) < _NEGOTIATION.size:
        raise WireError("the negotiation is too short")
    return Negotiation(*_NEGOTIATION.unpack_from(payload))


def parse_connection(payload: bytes) -> Connection:
    """Read who the SMTP client is.

    Raises:
        WireError: a string does not end, or the port is missing.
    """
    name, end, rest = payload.partition(b"\0")
    if not end or not rest:
        raise WireError("a connection from nobody")
    if rest[:1] not in (b"4", b"6"):  # SMFIA_INET, SMFIA_INET6; others have no address
        return Connection(name.decode("latin-1"), "", 0)
    if len(rest) < 1 + _PORT.size or rest[-1:] != b"\0":
        raise WireError("a connection without an address")
    (port,) = _PORT.unpack_from(rest, 1)
    address = rest[1 + _PORT.size : -1].decode("latin-1")
    # Sendmail writes IPv6 addresses as in RFC 5321 section 4.1.3, Postfix plain.
    return Connection(name.decode("latin-1"), address.removeprefix("IPv6:"), port)


def parse_macros(payload: bytes) -> tuple[int, Mapping[bytes, bytes]]:
    """Read macros: for which event, and their values by name, braces aside.

    Raises:
        WireError: no event, or names and values do not make pairs.
    """
    if not payload:
        raise WireError("macros for no event")
    if len(payload) == 1:
        return payload[0], {}
    parts = parse_strings(payload[1:])
    if len(parts) % 2:
        raise WireError("a macro without a value")
    names = (name.removeprefix(b"{").removesuffix(b"}") for name in parts[::2])
    return payload[0], dict(zip(names, parts[1::2], strict=True))


def parse_fields(
    payloads: Sequence[bytes], *, has_leading_space: bool
) -> tuple[Sequence[bytes], Sequence[bytes], int]:
    r"""Read header fields that came in a row; all at once, since a message has a dozen or more.

    Args:
        payloads: name and body each; folds as LF.
        has_leading_space: whether a body begins right behind the colon. Otherwise the server has
            eaten one blank, if there was one.

    Returns:
        The names in lower case, without blanks behind them; the bodies as they stood in the
        message, from behind the colon to before the line end; and how many octets of the message
        all of that was.

    Raises:
        WireError: one of them is not two strings.
    """
    if wrong := [p for p in payloads if p.count(b"\0") != _STRINGS_OF_FIELD or p[-1]]:
        raise WireError(f"not a header field: {wrong[0][:_MAX_SHOWN]!r}")
    together = b"".join(payloads).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    strings = together.split(b"\0")
    named, bodies = b"\0".join(strings[:-1:2]).lower(), strings[1::2]
    if not has_leading_space:
        bodies = [b" " + body for body in bodies]
    names = named.split(b"\0")
    if b" " in named or b"\t" in named:  # RFC 5322 section 4.5.8 allows them before the colon
        names = [name.rstrip(b" \t") for name in names]
    # The two NULs of each are a colon and a line end.
    return names, bodies, len(together) + len(payloads)


def is_taken_back(behind: Sequence[tuple[int, bytes]]) -> bool:
    """Say whether packets behind the end of a message, macros aside, begin with its abort."""
    first = next((command for command, _ in behind if command != Event.MACRO), None)
    return first in (Event.ABORT, Event.QUIT, Event.QUIT_NEW_CONNECTION)


def agree(offered: Negotiation, requests: Request, steps: Step) -> Negotiation:
    """Agree on what both sides can do.

    Args:
        offered: by the server.
        requests: what we must be allowed; a choice of macros is welcome, but no must.
        steps: all that we would like left out or not waited for.

    Raises:
        WireError: the server is too old, or does not let us do what we must.
    """
    if offered.version < OLDEST_VERSION:
        raise WireError(f"protocol version {offered.version} is too old")
    missing = requests & ~Request.SET_MACRO_LISTS & ~offered.requests
    if missing:
        raise WireError(f"the mail server does not let a milter do this: {Request(missing)!r}")
    return Negotiation(
        min(VERSION, offered.version), requests & offered.requests, steps & offered.steps
    )


def negotiated(agreed: Negotiation, macros: Mapping[Stage, bytes]) -> bytes:
    """Compose the answer to the negotiation.

    Args:
        agreed: from `agree`.
        macros: names of the wanted ones with blanks between them, by stage; told only to a server
            that lets us choose, which then sends no others.
    """
    lists = b""
    if agreed.requests & Request.SET_MACRO_LISTS:
        lists = b"".join(_LENGTH.pack(stage) + strings(names) for stage, names in macros.items())
    head = _NEGOTIATION.pack(agreed.version, agreed.requests, agreed.steps)
    return packet(Event.NEGOTIATE, head + lists)


CONTINUE = packet(ord("c"))
DISCARD = packet(ord("d"))
PROGRESS = packet(ord("p"))


def insert_field(field: bytes, *, has_leading_space: bool) -> bytes:
    """Ask for a field to be put in front of all others, the server's own Received among them.

    Args:
        field: one line, ``name: body`` with its CRLF.
        has_leading_space: as agreed.
    """
    name, _, body = field.removesuffix(b"\r\n").partition(b":")
    if not has_leading_space:
        body = body.removeprefix(b" ")
    return packet(ord("i"), _LENGTH.pack(0) + strings(name, body))


def delete_field(name: bytes, index: int) -> bytes:
    """Ask for a field to be removed.

    Args:
        name: in any case.
        index: among the fields of that name, from 1. Later ones may move up: begin with the last.
    """
    return packet(ord("m"), _LENGTH.pack(index) + strings(name, b""))


def delete_recipient(argument: bytes) -> bytes:
    """Ask for a recipient to be removed; ``argument`` as it came with RCPT, brackets included."""
    return packet(ord("-"), strings(argument))


def reply_code(reply: Reply) -> bytes:
    """Compose a reply for the SMTP client; servers take a percent sign for a format."""
    text = reply.wire.removesuffix(b"\r\n").replace(b"%", b"%%")
    return packet(ord("y"), strings(text))
