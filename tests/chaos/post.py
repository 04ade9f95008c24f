"""The messages of a run: which there are and what they look like, by seed; values only.

Each has a serial number in its first field, so that whoever finds it knows it for what it was,
whatever its Message-ID.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

SENDER = "sender@chaos.test"
_LINE_OCTETS = 80
_POOL_LINES = 65_536
_SMALLEST, _LARGEST = 512, 64 * 1024
_HUGE_OCTETS = (1024 * 1024, 3 * 1024 * 1024)
_DIGEST_OCTETS = 16


class Kind(Enum):
    """What is special about a message."""

    ORDINARY = "ordinary"
    SHARED_ID = "its id is another message's, too"
    NO_ID = "no Message-ID"
    NO_IDENTITY = "neither Message-ID nor Date"
    FORGED = "with a field that only we may add"
    HUGE = "of megabytes"


_WEIGHTS = {
    Kind.ORDINARY: 745,
    Kind.SHARED_ID: 100,
    Kind.NO_ID: 100,
    Kind.NO_IDENTITY: 10,
    Kind.FORGED: 40,
    Kind.HUGE: 5,
}


@dataclass(frozen=True, slots=True)
class Post:
    """One message, not yet written.

    Attributes:
        number: serial.
        kind: of message.
        family: number of the message that it shares its id with, or its own.
        recipients: forward-paths.
        copies: how often it is sent again although it was accepted.
        size_octets: of the body, about.
        place: where in the pool its body begins.
    """

    number: int
    kind: Kind
    family: int
    recipients: tuple[str, ...]
    copies: int
    size_octets: int
    place: int


@dataclass(frozen=True, slots=True)
class Written:
    """A message as it goes over the wire.

    Attributes:
        wire: dots stuffed, without the one that ends it.
        digest: of what must arrive, behind what may be prepended.
    """

    wire: bytes
    digest: bytes


class Office:
    """Writes the messages of one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def posts(self, count: int) -> Iterator[Post]:
        """Return so many messages, always the same ones."""
        draw = random.Random(f"posts {self._seed}")
        kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
        last = Post(-1, Kind.ORDINARY, -1, (), 0, 0, 0)
        for number in range(count):
            (kind,) = draw.choices(kinds, weights)
            if kind is Kind.SHARED_ID and last.kind is Kind.SHARED_ID:
                family, recipients = last.family, last.recipients
            else:
                family, recipients = number, _recipients(draw)
            size = int(_SMALLEST * (_LARGEST / _SMALLEST) ** draw.random())
            if kind is Kind.HUGE:
                size = draw.randint(*_HUGE_OCTETS)
            may_repeat = kind is not Kind.NO_IDENTITY
            copies = draw.choices((0, 1, 2), (80, 17, 3))[0] if may_repeat else 0
            last = Post(number, kind, family, recipients, copies, size, draw.randrange(_POOL_LINES))
            yield last

    def write(self, post: Post) -> Written:
        """Write a message out."""
        serial = f"X-Serial: {post.number:08d}\r\n".encode()
        fields = [f"From: A. Sender <{SENDER}>\r\n", f"Subject: chaos {post.number}\r\n"]
        if post.kind is not Kind.NO_IDENTITY:
            fields.append("Date: Tue, 24 Nov 2026 12:00:00 +0000\r\n")
        if post.kind not in (Kind.NO_ID, Kind.NO_IDENTITY):
            fields.append(f"Message-ID: <{post.family}.{self._seed}@chaos.test>\r\n")
        head = serial + "".join(fields).encode()
        forged = b"X-Mailonce: duplicate; by=somebody.else\r\n" if post.kind is Kind.FORGED else b""
        body = b"\r\nThis is number %d.\r\n" % post.number + self._body(post)
        digest = hashlib.blake2b(head + body, digest_size=_DIGEST_OCTETS).digest()
        return Written(head + forged + body, digest)

    def _body(self, post: Post) -> bytes:
        lines = post.size_octets // _LINE_OCTETS + 1
        start = (post.place % (_POOL_LINES - lines)) * _LINE_OCTETS
        return self._pool[start : start + lines * _LINE_OCTETS]

    @cached_property
    def _pool(self) -> bytes:
        """Return lines of any octets that a message may hold, some with a dot in front."""
        draw = random.Random(f"pool {self._seed}")
        text = bytearray(draw.randbytes(_POOL_LINES * _LINE_OCTETS).translate(_SAYABLE))
        for start in range(0, len(text), _LINE_OCTETS):
            text[start + _LINE_OCTETS - 2 : start + _LINE_OCTETS] = b"\r\n"
            if draw.random() < 0.05:
                text[start : start + 2] = b".."
            elif text[start] == ord("."):
                text[start] = ord("o")
        return bytes(text)


def digest_of(octets: bytes) -> bytes:
    """Return the digest by which a message is told from any other."""
    return hashlib.blake2b(octets, digest_size=_DIGEST_OCTETS).digest()


_SAYABLE = bytes(octet if octet not in b"\0\r\n" else ord("x") for octet in range(256))


def _recipients(draw: random.Random) -> tuple[str, ...]:
    count = draw.choices((1, 2, 3, 5, 12), (70, 15, 8, 5, 2))[0]
    return tuple(f"r{number}@example.org" for number in draw.sample(range(500), count))
