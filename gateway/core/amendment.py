"""What a milter may change in a message: one form for all who still get it.

A milter sees a message and all its recipients at once. It can take recipients away, but not give
two of them different fields. A mark that is wrong for one recipient is worse than none: mailbox
rules act on it, and a new message that is filed with the duplicates is as good as lost. So a
mark is set only if it is true for everybody who gets the message; else the message goes out as it
came, and those who would have been marked count as observed.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.edition import EditionSettings
from gateway.core.policy import Action, Decision, Examination, Sighting, Verdict
from gateway.core.tag import generated_id, lacks_id, mark, message_id_field, modest
from gateway.core.value import value


@value
class Amendment:
    """What shall be done to a message.

    Attributes:
        decisions: one per recipient, as they can be carried out.
        removed: which recipients get nothing, by index. If it is all of them, nothing else matters.
        fields: whole fields to prepend, the topmost last.
        forged: how many fields of our name to remove.
        is_id_added: whether a Message-ID is among the fields.
    """

    decisions: tuple[Decision, ...]
    removed: tuple[int, ...]
    fields: tuple[bytes, ...]
    forged: int
    is_id_added: bool


def amend(
    examination: Examination,
    decisions: Sequence[Decision],
    sightings: Sequence[Sighting | None],
    digest: bytes,
    settings: EditionSettings,
) -> Amendment:
    """Find the one form in which a message can go to all who shall get it.

    Args:
        examination: of its header section.
        decisions: one per recipient; none is `Action.DEFERRED`.
        sightings: of the earlier copy, one per recipient.
        digest: for a generated Message-ID: the fingerprint, or random octets.
        settings: the postmaster's. Repair is left to those who can do it without changing the order
            of fields.
    """
    removed = [i for i, decision in enumerate(decisions) if decision.action is Action.DROPPED]
    kept = [
        (decision, sighting)
        for decision, sighting in zip(decisions, sightings, strict=True)
        if decision.action is not Action.DROPPED
    ]
    marking = _common_mark(kept, settings.hostname)
    added = b""
    # For those whose mail is to be left alone, nothing is added unless somebody else gets it too.
    if (
        settings.adds_missing
        and lacks_id(examination)
        and any(decision.verdict is not Verdict.BYPASSED for decision, _ in kept)
    ):
        added = message_id_field(generated_id(examination, digest, settings.id_domain))
    return Amendment(
        decisions=tuple(decisions) if marking else tuple([_unmarked(d) for d in decisions]),
        removed=tuple(removed),
        fields=tuple([field for field in (added, marking) if field]),
        forged=len(examination.forged),
        is_id_added=bool(added),
    )


def _common_mark(kept: Sequence[tuple[Decision, Sighting | None]], hostname: str) -> bytes:
    """Return the field that says no more than what is true for everybody, or ``b""``."""
    if not kept or kept[0][0].action is not Action.TAGGED:
        return b""
    if len({decision for decision, _ in kept}) != 1:
        return b""
    earlier = modest([sighting for _, sighting in kept])
    return mark(kept[0][0], earlier, hostname=hostname)


def _unmarked(decision: Decision) -> Decision:
    """Return a decision that could not be carried out because others get the message, too."""
    if decision.action is Action.TAGGED:
        return Decision(decision.verdict, Action.OBSERVED)
    return decision
