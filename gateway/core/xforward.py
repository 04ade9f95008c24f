"""XFORWARD towards us: what a filter's client says of its own client (Postfix's XFORWARD_README).

Only ever read from networks that the postmaster named. Values are xtext (RFC 3461 section 4). Never
raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.core.rule import address_of

NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
"""Attributes that we offer and understand."""

_ATTRIBUTE = re.compile(rb"([A-Za-z]{1,16})=([!-~]{1,255})")
_ESCAPE = re.compile(r"\+([0-9A-F]{2})")
_PORT = re.compile(r"[0-9]{1,5}")
_NOTHING = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")


def parse_xforward(argument: bytes) -> Mapping[str, str] | None:
    """Read the argument of an XFORWARD command.

    Returns:
        Values by attribute in upper case, or None if it is no sequence of known attributes.
    """
    values = {}
    for part in argument.split():
        match = _ATTRIBUTE.fullmatch(part)
        name = match[1].decode("ascii").upper() if match else ""
        if match is None or name not in NAMES:
            return None
        text = match[2].decode("ascii")
        values[name] = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    return values or None


def address_in(values: Mapping[str, str]) -> str:
    """Return the client's address, ``""`` if it is not told."""
    text = values.get("ADDR", "")
    if text[:5].upper() == "IPV6:":
        text = text[5:]
    address = address_of(text)
    return "" if address is None else str(address)


def port_in(values: Mapping[str, str]) -> int:
    """Return the client's port, 0 if it is not told."""
    text = values.get("PORT", "")
    port = int(text) if _PORT.fullmatch(text) else 0
    return port if port < 65_536 else 0


def told(values: Mapping[str, str], name: str) -> str:
    """Return an attribute, ``""`` if it is not told."""
    text = values.get(name, "")
    return "" if text in _NOTHING else text
