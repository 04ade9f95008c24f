r"""How the client's identity is handed on to the downstream.

XCLIENT and XFORWARD as in Postfix's XCLIENT_README and XFORWARD_README (values in xtext, RFC 3461
section 4); the PROXY protocol version 2 as in HAProxy's proxy-protocol.txt, section 2.2. A server
that trusts us and does not learn the client's address relays for anyone: who calls this treats any
refusal as the end of the session.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address

from gateway.core.rule import address_of

_NOT_XTEXT = re.compile(rb"[^!-~]|[+=]")
_UNAVAILABLE = "[UNAVAILABLE]"
_MAX_VALUE_OCTETS = 255
# RFC 5321 section 4.5.3.1.4: 512 octets a command line, its CRLF included.
_MAX_COMMAND_OCTETS = 510
_PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY_COMMAND = 0x21  # version 2, PROXY
PROXY_LOCAL_HEADER = _PROXY_SIGNATURE + b"\x20\x00\x00\x00"
"""For a connection of our own, on which no mail may follow: it stands for our own address."""


class HandOver(StrEnum):
    """``downstream.identity``."""

    XCLIENT = "xclient"
    PROXY = "proxy"
    XFORWARD = "xforward"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Client:
    """Who is connected to us.

    Attributes:
        address: IP address as text, ``""`` for a unix socket.
        port: of the client.
        name: forward-confirmed host name, ``"[UNAVAILABLE]"`` or ``"[TEMPUNAVAIL]"``.
        helo: as given, ``""`` before HELO.
        is_extended: whether it said EHLO.
        local_address: ours, that it connected to.
        local_port: ours.
        forwarded: XFORWARD attributes it sent itself, where it may.
    """

    address: str = ""
    port: int = 0
    name: str = _UNAVAILABLE
    helo: str = ""
    is_extended: bool = True
    local_address: str = ""
    local_port: int = 0
    forwarded: tuple[tuple[str, str], ...] = ()


def xclient_command(client: Client, offered: Collection[str]) -> bytes:
    """Compose the XCLIENT command.

    Args:
        client: whose identity the downstream shall take over.
        offered: attribute names from the downstream's EHLO, upper case.

    NAME and ADDR are always sent: with ADDR alone Postfix keeps our own name for the client. One
    line always suffices: NAME or HELO is left out as [UNAVAILABLE] where both are overlong.
    """
    values = {
        "NAME": client.name or _UNAVAILABLE,
        "ADDR": _postfix_address(client.address),
        "PORT": str(client.port) if client.port else _UNAVAILABLE,
        "PROTO": "ESMTP" if client.is_extended else "SMTP",
        "HELO": client.helo or _UNAVAILABLE,
        "DESTADDR": _postfix_address(client.local_address),
        "DESTPORT": str(client.local_port) if client.local_port else _UNAVAILABLE,
    }
    verb = b"XCLIENT"
    told = {
        name: _value(value)
        for name, value in values.items()
        if name in offered or name in ("NAME", "ADDR")
    }
    while sum(len(_attribute(*pair)) for pair in told.items()) > _MAX_COMMAND_OCTETS - len(verb):
        longest = max(told, key=lambda name: len(told[name]))
        told[longest] = xtext(_UNAVAILABLE)
    return verb + b"".join(_attribute(*pair) for pair in told.items()) + b"\r\n"


def xforward_commands(client: Client, offered: Collection[str]) -> Sequence[bytes]:
    """Compose the XFORWARD commands: what the client forwarded to us, else what we see of it."""
    values = dict(client.forwarded) or {
        "NAME": client.name or _UNAVAILABLE,
        "ADDR": _postfix_address(client.address),
        "PORT": str(client.port) if client.port else _UNAVAILABLE,
        "PROTO": "ESMTP" if client.is_extended else "SMTP",
        "HELO": client.helo or _UNAVAILABLE,
        "SOURCE": "REMOTE",
    }
    lines = [b"XFORWARD"]
    for name, value in values.items():
        if name in offered:
            attribute = _attribute(name, _value(value))
            if len(lines[-1]) + len(attribute) > _MAX_COMMAND_OCTETS:
                lines.append(b"XFORWARD")
            lines[-1] += attribute
    return [line + b"\r\n" for line in lines if line != b"XFORWARD"]


def proxy_header(client: Client) -> bytes | None:
    """Compose a PROXY v2 header, or None if the client has no address to tell.

    An IPv4 and an IPv6 address are both told as IPv6.
    """
    source, target = address_of(client.address), address_of(client.local_address)
    if source is None:
        return None
    if target is None:
        target = ip_address("127.0.0.1" if source.version == 4 else "::1")
    if source.version == target.version == 4:
        family = 0x11
        addresses = source.packed + target.packed
    else:
        family = 0x21
        addresses = b"".join(
            a.packed if a.version == 6 else b"\0" * 10 + b"\xff\xff" + a.packed
            for a in (source, target)
        )
    body = addresses + struct.pack("!HH", client.port, client.local_port)
    return _PROXY_SIGNATURE + struct.pack("!BBH", _PROXY_COMMAND, family, len(body)) + body


def xtext(value: str) -> bytes:
    """Encode a value (RFC 3461 section 4): "+", "=", controls and non-ASCII become +XX."""
    return _NOT_XTEXT.sub(lambda match: b"+%02X" % match[0][0], value.encode("latin-1", "replace"))


def _value(value: str) -> bytes:
    """Encode a value; Postfix refuses a whole command over one that is too long."""
    encoded = xtext(value)
    return encoded if len(encoded) <= _MAX_VALUE_OCTETS else xtext(_UNAVAILABLE)


def _attribute(name: str, encoded: bytes) -> bytes:
    return b" %b=%b" % (name.encode("ascii"), encoded)


def _postfix_address(address: str) -> str:
    """Write an address as Postfix reads it: IPv6 with a prefix, none as [UNAVAILABLE]."""
    parsed = address_of(address)
    if parsed is None:
        return _UNAVAILABLE
    return f"IPV6:{parsed}" if parsed.version == 6 else str(parsed)
