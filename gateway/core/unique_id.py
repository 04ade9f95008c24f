"""What a tracking list remembers: digests only (RFC 7352 section 6), keyed with a secret.

A unique id stands for (message identity, forward-path); with another recipient, another list or a
deliberate resending it is another one. Each part is length-prefixed, so that no two combinations
make the same octets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from gateway.core.envelope import normalized

_DIGEST_OCTETS = 12
_MAX_KEY_OCTETS = 64


@dataclass(frozen=True, slots=True)
class UniqueId:
    """Key of one tracked (message, recipient).

    Attributes:
        message: digest that all recipients of a message share; twelve octets.
        recipient: digest of this recipient; twelve octets.
    """

    message: bytes
    recipient: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two messages the same one, before their content is compared.

    Attributes:
        kind: ``b"id"`` for a canonical Message-ID, ``b"derived"`` for one made from the content.
        value: the octets.
        list_id: List-Id of a mailing-list copy, or ``b""``.
        resent: identity of the latest resending, or ``b""``.
    """

    kind: bytes
    value: bytes
    list_id: bytes = b""
    resent: bytes = b""


class Sealer:
    """Makes the digests of one tracking list."""

    __slots__ = ("_key",)

    def __init__(self, secret: bytes) -> None:
        """Take the secret of the list; ``b""`` for none."""
        too_long = len(secret) > _MAX_KEY_OCTETS
        self._key = hashlib.blake2b(secret).digest() if too_long else secret

    def unique_ids(
        self, identity: Identity, forward_paths: tuple[bytes, ...]
    ) -> tuple[UniqueId, ...]:
        """Return one unique id per forward-path, in order."""
        message = self._digest(
            b"message", identity.kind, identity.value, identity.list_id, identity.resent
        )
        return tuple(
            UniqueId(message, self._digest(b"recipient", message, normalized(path)))
            for path in forward_paths
        )

    def fingerprint(self, unique_id: UniqueId, fingerprint: bytes) -> bytes:
        """Return a content fingerprint as the list keeps it: bound to the secret and the id."""
        return self._digest(b"content", unique_id.message, unique_id.recipient, fingerprint)

    def collision_id(self, unique_id: UniqueId, fingerprint: bytes) -> UniqueId:
        """Return the key under which another content of the same unique id is tracked."""
        return UniqueId(
            unique_id.message,
            self._digest(b"collision", unique_id.recipient, fingerprint),
        )

    def _digest(self, purpose: bytes, *parts: bytes) -> bytes:
        digest = hashlib.blake2b(digest_size=_DIGEST_OCTETS, key=self._key, person=purpose)
        for part in parts:
            digest.update(b"%d:%b" % (len(part), part))
        return digest.digest()
