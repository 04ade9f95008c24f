"""The fingerprint: a digest of the content that survives transport.

BLAKE2b-128 over From, Date and Subject and then the body, without white space. Relays fold, unfold,
trim and change line ends; they add and remove trace fields. What is left is what the sender wrote.
Without white space a digest does not depend on how the body was cut into chunks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

VERSION = 1
DIGEST_OCTETS = 16
IDENTIFYING_FIELDS = (b"from", b"date", b"subject")

# Copied for each message: half as expensive as making one.
_BEGUN = hashlib.blake2b(digest_size=DIGEST_OCTETS, person=b"mailonce-fp-%d" % VERSION)
_WHITE_SPACE = b" \t\r\n"


class Fingerprinter:
    """Takes a message in as it comes and gives its fingerprint at the end."""

    __slots__ = ("_hash",)

    def __init__(self, identifying: Sequence[Sequence[bytes]]) -> None:
        """Start with the header.

        Args:
            identifying: per name of `IDENTIFYING_FIELDS`, the field bodies, white space collapsed.
        """
        self._hash = _BEGUN.copy()
        for bodies in identifying:
            told = [b"%d:%b" % (len(body), body) for body in bodies]
            self._hash.update(b"%d:%b" % (len(bodies), b"".join(told)))

    def update(self, body: bytes) -> None:
        """Take the next octets of the body, dots unstuffed."""
        self._hash.update(body.translate(None, _WHITE_SPACE))

    def digest(self) -> bytes:
        """Return the fingerprint of all taken so far."""
        return self._hash.digest()
