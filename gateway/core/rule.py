"""Which policy holds for which recipient: the ``[[policy]]`` rules, the first match wins.

Patterns are shell-style with ``*`` and ``?`` over whole addresses; domains match in any case, local
parts as given. A rule with several conditions needs all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from gateway.core.envelope import Envelope, normalized

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class Mode(StrEnum):
    """What to do with a confirmed duplicate (``dedup.action``)."""

    TAG = "tag"
    DROP = "drop"
    OBSERVE = "observe"
    BYPASS = "bypass"


class Match(StrEnum):
    """How much must agree for a duplicate (``dedup.match``)."""

    CONTENT = "content"
    MESSAGE_ID = "message-id"


class Collisions(StrEnum):
    """What becomes of another content under a known id (``dedup.collisions``)."""

    TAG = "tag"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Policy:
    """All choices for one recipient of one message.

    Attributes:
        window_s: how long a confirmed sighting counts, from the first one.
    """

    mode: Mode = Mode.TAG
    match: Match = Match.CONTENT
    collisions: Collisions = Collisions.TAG
    window_s: float = 432_000.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``[[policy]]`` entry; what is None or empty does not restrict, or is not changed.

    Attributes:
        recipients: address patterns.
        senders: address patterns; the null reverse-path is the empty pattern.
        clients: networks.
    """

    recipients: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    clients: tuple[Network, ...] = ()
    mode: Mode | None = None
    match: Match | None = None
    window_s: float | None = None
    _recipients: re.Pattern[bytes] | None = field(init=False, repr=False, compare=False)
    _senders: re.Pattern[bytes] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile the patterns once."""
        object.__setattr__(self, "_recipients", _compiled(self.recipients))
        object.__setattr__(self, "_senders", _compiled(self.senders))

    def applies(self, envelope: Envelope, address: Address | None, forward_path: bytes) -> bool:
        """Say whether every condition of the rule holds for one recipient."""
        if self._recipients and not self._recipients.fullmatch(normalized(forward_path)):
            return False
        if self._senders and not self._senders.fullmatch(normalized(envelope.reverse_path)):
            return False
        return not self.clients or is_within(address, self.clients)


def policies(default: Policy, rules: Sequence[Rule], envelope: Envelope) -> tuple[Policy, ...]:
    """Return the policy of each forward-path of an envelope, in order."""
    if not rules:
        return (default,) * len(envelope.forward_paths)
    address = address_of(envelope.client_address)
    return tuple(
        next(
            (_overlaid(default, rule) for rule in rules if rule.applies(envelope, address, path)),
            default,
        )
        for path in envelope.forward_paths
    )


@lru_cache(maxsize=4096)
def address_of(text: str) -> Address | None:
    """Read an IP address, an IPv4 one in IPv6 clothes as IPv4; what is none gives None.

    Remembered: six parts of a session ask for the same two addresses, 3 µs each time.
    """
    try:
        address = IPv6Address(text.partition("%")[0]) if ":" in text else IPv4Address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def is_within(address: Address | None, networks: Sequence[Network]) -> bool:
    """Say whether an address lies in one of the networks."""
    return address is not None and any(
        address.version == network.version and address in network for network in networks
    )


def _overlaid(default: Policy, rule: Rule) -> Policy:
    return Policy(
        mode=default.mode if rule.mode is None else rule.mode,
        match=default.match if rule.match is None else rule.match,
        collisions=default.collisions,
        window_s=default.window_s if rule.window_s is None else rule.window_s,
    )


def _compiled(patterns: Sequence[str]) -> re.Pattern[bytes] | None:
    """Make one expression of shell-style patterns; None matches everything."""
    if not patterns:
        return None
    return re.compile(b"|".join(_expression(pattern) for pattern in patterns), re.DOTALL)


def _expression(pattern: str) -> bytes:
    """Translate one pattern; what stands between two stars matches where it first can.

    Each such part is final once it matched, or a long path would cost as many trials as it has
    octets, to the power of the stars.
    """
    first, *rest = (
        re.escape(part).replace(rb"\?", b".") for part in normalized(pattern.encode()).split(b"*")
    )
    if not rest:
        return first
    *middle, last = rest
    return b"".join((first, *(b"(?>.*?%b)" % part for part in middle), b".*", last))
