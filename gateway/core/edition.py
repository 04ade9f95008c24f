"""The header sections that go out: recipients whose copies look the same share one edition.

An edition is one form of the message, and so one downstream transaction: plain, tagged as a
duplicate, tagged as a collision, and so on. Whole fields are prepended, forged ones of ours
removed; all else stays octet for octet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.header import prepended, without
from gateway.core.policy import Action, Decision, Examination, Sighting, Verdict, examine
from gateway.core.tag import (
    generated_id,
    lacks_id,
    mark,
    message_id_field,
    modest,
    repaired_id,
)
from gateway.core.value import value


@value
class Edition:
    """One form in which a message leaves.

    Attributes:
        section: its header section, dots unstuffed.
        members: which recipients get it, by index.
        is_id_added: whether a Message-ID was prepended.
    """

    section: bytes
    members: tuple[int, ...]
    is_id_added: bool


@dataclass(frozen=True, slots=True)
class EditionSettings:
    """What may be prepended and repaired.

    Attributes:
        hostname: our name in X-Mailonce.
        id_domain: right of the @ in generated ids.
        adds_missing: whether a missing Message-ID is added.
        repairs: whether a malformed or empty one is replaced.
    """

    hostname: str
    id_domain: str
    adds_missing: bool = True
    repairs: bool = False


def editions(
    section: bytes,
    examination: Examination,
    decisions: Sequence[Decision],
    sightings: Sequence[Sighting | None],
    digest: bytes,
    settings: EditionSettings,
) -> tuple[Edition, ...]:
    """Sort recipients by what their copies look like.

    All duplicates share one mark, and so do all collisions, however differently their recipients
    have seen them before: each edition costs a transaction, and a client could otherwise make us
    send one message as often as it has recipients.

    Args:
        section: header section as received, dots unstuffed.
        examination: of it.
        decisions: one per recipient; the dropped and deferred get nothing.
        sightings: of the earlier copy, one per recipient.
        digest: for a generated Message-ID: the fingerprint, or random octets; ``b""`` while neither
            is there, and then none is generated.
        settings: the postmaster's.

    Returns:
        Editions in the order in which they should go out: unmarked ones first.
    """
    bare = without(section, examination.forged)
    whole, added = _identified(section, bare, examination, digest, settings)
    plain = prepended(whole, added)
    groups: dict[Verdict | None, list[int]] = {}
    for index, decision in enumerate(decisions):
        if decision.action not in (Action.DROPPED, Action.DEFERRED):
            look = _look(decision, is_changed=plain != bare)
            groups.setdefault(look, []).append(index)
    unmarked, marked = [], []
    for look, members in groups.items():
        if look is None:
            unmarked.append(Edition(plain, tuple(members), bool(added)))
        elif look is Verdict.BYPASSED:
            unmarked.append(Edition(bare, tuple(members), is_id_added=False))
        else:
            earlier = modest([sightings[index] for index in members])
            marking = mark(decisions[members[0]], earlier, hostname=settings.hostname)
            text = prepended(whole, marking, added)
            marked.append(Edition(text, tuple(members), bool(added)))
    return (*unmarked, *marked)


def _look(decision: Decision, *, is_changed: bool) -> Verdict | None:
    """Return what sets a copy apart from the plain one, or None.

    Who is bypassed gets the message as it came, even if a Message-ID is added for others.
    """
    is_bypassed = decision.verdict is Verdict.BYPASSED and is_changed
    return decision.verdict if decision.action is Action.TAGGED or is_bypassed else None


def _identified(
    section: bytes,
    bare: bytes,
    examination: Examination,
    digest: bytes,
    settings: EditionSettings,
) -> tuple[bytes, bytes]:
    """Return the section without forged fields and with its Message-ID repaired, and one to add."""
    generated = b""
    if digest and examination.is_identity_derived:
        generated = generated_id(examination, digest, settings.id_domain)
    if settings.adds_missing and generated and lacks_id(examination):
        return bare, message_id_field(generated)
    identity = repaired_id(examination, generated) if settings.repairs else None
    if identity is None:
        return bare, b""
    (field,) = examination.message_id_fields
    repaired = section[: field.start] + message_id_field(identity) + section[field.end :]
    return without(repaired, examine(repaired).forged), b""
