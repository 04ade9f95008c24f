"""The header sections that leave: one edition per way in which copies of a message differ.

Recipients whose copies are the same share an edition, and so a downstream transaction. Whole fields
are prepended, forged ones of ours removed; all else stays octet for octet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.core.header import prepended, without
from gateway.core.policy import Action, Decision, Examination, Sighting, Verdict
from gateway.core.tag import generated_id, lacks_id, mark, message_id_field, repaired_id


@dataclass(frozen=True, slots=True)
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

    Args:
        section: header section as received, dots unstuffed.
        examination: of it.
        decisions: one per recipient; the dropped and deferred get nothing.
        sightings: of the earlier copy, one per recipient.
        digest: for a generated Message-ID: the fingerprint, or random octets.
        settings: the postmaster's.

    Returns:
        Editions in the order in which they should go out: unmarked ones first.
    """
    base = without(section, examination.forged)
    generated = generated_id(examination, digest, settings.id_domain) if digest else b""
    added = b""
    if settings.adds_missing and generated and lacks_id(examination):
        added = message_id_field(generated)
    whole = _repaired(section, examination, generated) if settings.repairs else base
    groups: dict[tuple[bytes, bool], list[int]] = {}
    for index, (decision, sighting) in enumerate(zip(decisions, sightings, strict=True)):
        if decision.action in (Action.DROPPED, Action.DEFERRED):
            continue
        is_untouched = decision.verdict is Verdict.BYPASSED
        key = (mark(decision, sighting, hostname=settings.hostname), is_untouched)
        groups.setdefault(key, []).append(index)
    result = []
    for (marking, is_untouched), members in sorted(groups.items(), key=lambda group: group[0][0] != b""):
        text = base if is_untouched else prepended(whole, marking, added)
        result.append(Edition(text, tuple(members), bool(added) and not is_untouched))
    return _merged(result)


def _merged(candidates: Sequence[Edition]) -> tuple[Edition, ...]:
    """Put editions with the same octets together (bypassed and new, mostly)."""
    merged: dict[bytes, Edition] = {}
    for edition in candidates:
        same = merged.get(edition.section)
        members = tuple(sorted((same.members if same else ()) + edition.members))
        merged[edition.section] = Edition(edition.section, members, edition.is_id_added)
    return tuple(merged.values())


def _repaired(section: bytes, examination: Examination, generated: bytes) -> bytes:
    """Return the section without forged fields and with a repaired Message-ID, where it may be."""
    identity = repaired_id(examination, generated)
    if identity is None:
        return without(section, examination.forged)
    (field,) = examination.message_id_fields
    parts = sorted((*examination.forged, field), key=lambda part: part.start)
    kept, position = [], 0
    for part in parts:
        kept.append(section[position : part.start])
        if part is field:
            kept.append(message_id_field(identity))
        position = part.end
    kept.append(section[position:])
    return b"".join(kept)
