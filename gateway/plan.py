"""What shall be done with a message, before it is done: who gets which form of it.

Draws the conclusions from what the screening found and the policy decided. Never fails.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from gateway.candidate import Screened
from gateway.core.edition import Edition, EditionSettings, editions
from gateway.core.fingerprint import DIGEST_OCTETS
from gateway.core.policy import Decision
from gateway.core.tag import generated_id
from gateway.core.value import value


@value
class Plan:
    """What shall be done.

    Attributes:
        screened: as far as it went.
        name: the canonical id, or the one that is generated for want of one; ``b""`` if neither.
        decisions: one per recipient.
        editions: what leaves.
    """

    screened: Screened
    name: bytes
    decisions: Sequence[Decision]
    editions: tuple[Edition, ...]

    @property
    def is_id_added(self) -> bool:
        """Say whether any recipient gets a Message-ID that was not there."""
        return True in [edition.is_id_added for edition in self.editions]


def plan_of(
    section: bytes,
    screened: Screened,
    decisions: Sequence[Decision],
    fingerprint: bytes,
    settings: EditionSettings,
) -> Plan:
    """Compose what leaves.

    Args:
        section: header section as received, dots unstuffed.
        screened: as far as it goes.
        decisions: one per recipient.
        fingerprint: ``b""`` while the content is not known.
        settings: the postmaster's.
    """
    examination = screened.examination
    digest = fingerprint
    if examination.is_identity_derived and examination.date is None:
        digest = secrets.token_bytes(DIGEST_OCTETS)
    sightings = [candidate.sighting for candidate in screened.candidates]
    outgoing = editions(section, examination, decisions, sightings, digest, settings)
    name = examination.message_id.canonical or b""
    if not name and digest:
        name = generated_id(examination, digest, settings.id_domain)
    return Plan(screened, name, decisions, outgoing)
