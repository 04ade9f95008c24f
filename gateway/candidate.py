"""One recipient's copy between the steps of the screening, and what the list is to remember of it.

Values, and functions of them: nothing here waits or asks the list. Never fails.
"""

from __future__ import annotations

import math
from dataclasses import replace

from gateway.core.policy import NEW, Examination, Sight, Sighting
from gateway.core.reply import Reply
from gateway.core.report import queue_id_of
from gateway.core.rule import Match, Policy
from gateway.core.unique_id import Identity, UniqueId
from gateway.core.value import value
from gateway.ports import Record


@value
class Candidate:
    """One recipient's copy on its way through the steps.

    Attributes:
        forward_path: recipient.
        policy: that holds for it.
        key: what is claimed, and will be confirmed or released; None if nothing is tracked.
        sighting: from the list; None if it could not be asked.
        is_same_content: whether a `SEEN` copy had this content.
    """

    forward_path: bytes
    policy: Policy
    key: UniqueId | None
    sighting: Sighting | None
    is_same_content: bool = False


@value
class Screened:
    """A message between two steps.

    Attributes:
        examination: of its header section.
        identity: None if nothing identifies it.
        token: of its claims.
        claimed_at_s: Unix time of the first claim.
        candidates: one per forward-path, in order.
    """

    examination: Examination
    identity: Identity | None
    token: bytes
    claimed_at_s: float
    candidates: tuple[Candidate, ...]

    @property
    def needs_content(self) -> bool:
        """Say whether no decision is possible before the whole content is known."""
        return any(
            c.sighting is not None and c.sighting.sight is not Sight.NEW for c in self.candidates
        )


def is_held(candidate: Candidate) -> bool:
    """Say whether a claim is ours: of a new message, or of a collision's own key."""
    return candidate.sighting == NEW or is_collision(candidate)


def is_collision(candidate: Candidate) -> bool:
    """Say whether another content was seen under this id, and content counts."""
    return (
        candidate.sighting is not None
        and candidate.sighting.sight is Sight.SEEN
        and not candidate.is_same_content
        and candidate.policy.match is Match.CONTENT
    )


def was_retry_due(candidate: Candidate) -> bool:
    """Say whether an earlier copy was accepted, and its client told that it failed."""
    return candidate.sighting is not None and candidate.sighting.is_retry_due


def collided(candidate: Candidate, key: UniqueId, found: Sighting | None) -> Candidate:
    """Return a collision after its own key was claimed.

    A claim that is ours leaves the first copy's sighting in place, for the tag; anything else
    speaks for this very content.
    """
    if found == NEW:
        return replace(candidate, key=key)
    is_seen = found is not None and found.sight is Sight.SEEN
    return replace(candidate, key=key, sighting=found, is_same_content=is_seen)


def record_after(  # noqa: PLR0913 - what one record is made of
    screened: Screened,
    candidate: Candidate,
    key: UniqueId,
    sealed: bytes,
    reply: Reply | None,
    *,
    is_outcome_known: bool,
    is_retry_due: bool,
) -> Record:
    """Return what the list shall remember of an accepted, or once more seen, copy.

    Args:
        screened: the message.
        candidate: the copy.
        key: of the record.
        sealed: its fingerprint, as the list keeps it.
        reply: the downstream's last word, None if it was not asked.
        is_outcome_known: False if a reply that accepts is a hope.
        is_retry_due: whether the client was told that the message failed.
    """
    is_accepted = reply is not None and reply.is_accepted
    # Whole seconds are kept: rounded down, they would cut the doubt short.
    doubted_at_s = math.ceil(screened.claimed_at_s)
    since_s = _provisional_at_s(
        candidate, doubted_at_s, is_accepted=is_accepted, is_known=is_outcome_known
    )
    record = _record(screened, candidate, key, sealed, queue_id_of(reply), since_s)
    if not is_retry_due and not was_retry_due(candidate):
        return record
    is_here = is_accepted or candidate.is_same_content
    return _awaited(record, candidate, sealed, is_due=is_retry_due and is_here)


def _record(
    screened: Screened,
    candidate: Candidate,
    key: UniqueId,
    sealed: bytes,
    queue_id: bytes,
    provisional_at_s: int,
) -> Record:
    """Return a first copy's own record, or the earlier one's with this copy counted in."""
    earlier = candidate.sighting
    window_s, token = candidate.policy.window_s, screened.token
    if earlier is None or earlier.sight is not Sight.SEEN or is_collision(candidate):
        first_seen_s = int(screened.claimed_at_s)
        return Record(
            key, first_seen_s, sealed, 1, window_s, queue_id, provisional_at_s, token=token
        )
    return Record(
        key,
        earlier.first_seen_s,
        earlier.fingerprint,
        earlier.copies + 1,
        window_s,
        earlier.note or queue_id,
        provisional_at_s,
        token=token,
    )


def _provisional_at_s(
    candidate: Candidate, doubted_at_s: int, *, is_accepted: bool, is_known: bool
) -> int:
    """Return since when it is in doubt that this content was ever accepted; 0 if it was.

    An unknown outcome takes nothing from what an earlier copy proved. If none proved anything, a
    copy passed on starts the doubt anew: it may be the retry of one that failed, and fail as well.
    """
    earlier = candidate.sighting
    if earlier is None or earlier.sight is not Sight.SEEN or is_collision(candidate):
        return 0 if is_accepted and is_known else doubted_at_s
    if not earlier.provisional_at_s or not is_accepted:
        return earlier.provisional_at_s
    if is_known:
        # The record stays that of the first content, of which another one proves nothing.
        return 0 if candidate.is_same_content else earlier.provisional_at_s
    return doubted_at_s


def _awaited(record: Record, candidate: Candidate, sealed: bytes, *, is_due: bool) -> Record:
    """Return a record that says whether a retry of its content is due.

    Where the id alone counts, the content due may be another one than the first: the record then
    speaks of the one that will come again.
    """
    if record.provisional_at_s:
        return record  # nothing is known to be accepted
    if is_due:
        return replace(record, fingerprint=sealed, is_retry_due=True)
    is_other = record.fingerprint != sealed and not is_collision(candidate)
    return replace(record, is_retry_due=is_other and was_retry_due(candidate))
