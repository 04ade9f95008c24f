"""What a tracking list remembers: digests only (RFC 7352 section 6), keyed with a secret.

A unique id stands for (message identity, forward-path); of another list, of a deliberate resending
or with another content it is another variant. Message and recipient are digests of their own, so
that all known of one Message-ID, or of it for one recipient, can be found and forgotten. Each
part is length-prefixed, so that no two combinations make the same octets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from gateway.core.envelope import normalized
from gateway.core.value import value

MESSAGE_OCTETS = 12
RECIPIENT_OCTETS = 8
_MAX_KEY_OCTETS = 64


@value
class UniqueId:
    """Key of one tracked (message, recipient).

    Attributes:
        message: digest that all recipients and variants of a message share; twelve octets.
        recipient: digest of this recipient; eight octets.
        variant: ``b""`` for the plain message, else eight octets: a mailing-list copy, a resending,
            or another content under the same id.
    """

    message: bytes
    recipient: bytes
    variant: bytes = b""


@value
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

    def message(self, identity: Identity) -> bytes:
        """Return the digest of a message, whatever its variant."""
        return self._digest(MESSAGE_OCTETS, b"message", identity.kind, identity.value)

    def recipient(self, message: bytes, forward_path: bytes) -> bytes:
        """Return the digest of a recipient of that message."""
        return self._digest(RECIPIENT_OCTETS, b"recipient", message, normalized(forward_path))

    def unique_ids(
        self, identity: Identity, forward_paths: Sequence[bytes]
    ) -> tuple[UniqueId, ...]:
        """Return one unique id per forward-path, in order."""
        message = self.message(identity)
        variant = b""
        if identity.list_id or identity.resent:
            variant = self._digest(
                RECIPIENT_OCTETS, b"variant", message, identity.list_id, identity.resent
            )
        return tuple(
            [UniqueId(message, self.recipient(message, path), variant) for path in forward_paths]
        )

    def fingerprint(self, unique_id: UniqueId, fingerprint: bytes) -> bytes:
        """Return a content fingerprint as the list keeps it: bound to the secret and the id."""
        return self._digest(
            MESSAGE_OCTETS, b"content", unique_id.message, unique_id.recipient, fingerprint
        )

    def collision_id(self, unique_id: UniqueId, fingerprint: bytes) -> UniqueId:
        """Return the key under which another content of the same unique id is tracked."""
        variant = self._digest(RECIPIENT_OCTETS, b"collision", unique_id.variant, fingerprint)
        return replace(unique_id, variant=variant)

    def _digest(self, octets: int, purpose: bytes, *parts: bytes) -> bytes:
        told = b"".join([b"%d:%b" % (len(part), part) for part in parts])
        return hashlib.blake2b(told, digest_size=octets, key=self._key, person=purpose).digest()
