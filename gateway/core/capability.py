"""EHLO replies: what the downstream can do, what we tell our clients (RFC 5321 section 4.1.1.1).

We offer what the downstream offers, through an allow-list: extensions that are mere parameters pass
through us unharmed; those that change the dialogue (CHUNKING, AUTH, ETRN, XCLIENT) do not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from gateway.core.reply import Reply, reply
from gateway.core.tag import ALLOWANCE_OCTETS

_MIRRORED = frozenset(
    ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "LIMITS")
)
# RFC 1870 section 4: at most twenty digits.
_SIZE = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Extensions a server offers: keyword in upper case -> parameters as given."""

    extensions: tuple[tuple[str, str], ...] = ()

    def has(self, keyword: str) -> bool:
        """Say whether an extension is offered."""
        return any(name == keyword for name, _ in self.extensions)

    def parameters(self, keyword: str) -> str:
        """Return the parameters of an extension, ``""`` if it has none or is not offered."""
        return next((value for name, value in self.extensions if name == keyword), "")


NOTHING = Capabilities()


@lru_cache(maxsize=64)
def parse_ehlo(answer: Reply) -> Capabilities:
    """Read the extensions from a successful EHLO reply; remembered, as each session hears it."""
    extensions = []
    for line in answer.lines[1:]:
        keyword, _, parameters = line.decode("latin-1").strip().partition(" ")
        if keyword:
            extensions.append((keyword.upper(), parameters.strip()))
    return Capabilities(tuple(extensions))


def ehlo_reply(
    hostname: str, downstream: Capabilities, *, max_size_octets: int, own: Sequence[str]
) -> Reply:
    """Compose our EHLO reply.

    Args:
        hostname: our name.
        downstream: its last known capabilities.
        max_size_octets: our own limit; the smaller of the two is announced.
        own: extensions of ours, with their parameters.
    """
    texts = [hostname]
    for keyword, parameters in downstream.extensions:
        if keyword == "SIZE":
            texts.append(f"SIZE {_size(parameters, max_size_octets)}")
        elif keyword in _MIRRORED and parameters.isascii() and parameters.isprintable():
            texts.append(f"{keyword} {parameters}".strip())
    return reply(250, "", *texts, *own)


def _size(parameters: str, max_size_octets: int) -> int:
    """Return the SIZE to announce; RFC 1870 section 4: 0 or none means no fixed limit."""
    offered = int(parameters) if _SIZE.fullmatch(parameters) else 0
    if offered == 0:
        return max_size_octets
    return max(1, min(offered - ALLOWANCE_OCTETS, max_size_octets))
