"""What is to be done with a message: which recipients get which form of it, under which name.

Follows from what the screening found and the policy decided; nothing is sent here. Never fails.
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
    """What is to be done.

    Attributes:
        screened: the message, as far as it is known.
        name: its canonical Message-ID, or the generated one where it has none; ``b""`` if there is
            neither.
        decisions: one per recipient.
        editions: the forms that go out.
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
    """Compose the forms that go out.

    Args:
        section: header section as received, dots unstuffed.
        screened: the message, as far as it is known.
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
