"""The three pure steps of one message: `examine`, `decide`, `settle`.

    examine  header section          -> who the message says it is
    decide   sighting + fingerprint  -> verdict and action for one recipient
    settle   downstream's reply      -> what the tracking list is told

The one rule that everything else serves: only a confirmed sighting with equal content may cost a
recipient a copy (or, where the postmaster asked for it, a confirmed sighting of the same id).
Whatever is unknown is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.core.fingerprint import IDENTIFYING_FIELDS
from gateway.core.header import Field, collapsed, select, start_of_fields, unfolded
from gateway.core.message_id import Form, MessageId, canonical_of, message_id_of
from gateway.core.rule import Collisions, Match, Mode, Policy
from gateway.core.unique_id import Identity
from gateway.core.value import value

OUR_FIELD = b"x-mailonce"
_SIGNATURES = (b"dkim-signature", b"arc-message-signature")
EXAMINED = frozenset(
    (
        *IDENTIFYING_FIELDS,
        *_SIGNATURES,
        OUR_FIELD,
        b"message-id",
        b"received",
        b"list-id",
        b"resent-message-id",
        b"resent-from",
        b"resent-date",
    )
)
"""Names of the fields that `examine` reads, in lower case."""

_MESSAGE_ID_LINE = re.compile(
    rb"^message-id[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)", re.IGNORECASE | re.MULTILINE
)
# RFC 6376 section 3.5: h= is a colon-separated list of names, blanks allowed around each.
_SIGNED_NAMES = re.compile(rb"(?:^|;)\s*h\s*=([^;]*)", re.IGNORECASE)
_IN_LAST_BRACKETS = re.compile(rb"<([^<>]+)>[^<>]*\Z")


class Verdict(StrEnum):
    """What a message is to one recipient; `PARTIAL` only of a message whose recipients differ."""

    NEW = "new"
    DUPLICATE = "duplicate"
    COLLISION = "collision"
    IN_FLIGHT = "in_flight"
    UNCHECKED = "unchecked"
    BYPASSED = "bypassed"
    PARTIAL = "partial"


class Action(StrEnum):
    """What became of a copy, or is to become of it."""

    RELAYED = "relayed"
    TAGGED = "tagged"
    DROPPED = "dropped"
    OBSERVED = "observed"
    REJECTED = "rejected"
    DEFERRED = "deferred"


class Sight(StrEnum):
    """What the tracking list knows of a unique id."""

    NEW = "new"
    IN_FLIGHT = "in_flight"
    SEEN = "seen"


@value
class Sighting:
    """Answer of the tracking list to one claim.

    Attributes:
        sight: `NEW` means the claim is ours; `SEEN` that the downstream accepted such a message.
        first_seen_s: Unix time of the first copy, if `SEEN`.
        fingerprint: sealed fingerprint of its content, if `SEEN`.
        copies: how many were sighted so far, if `SEEN`.
        note: the downstream's queue id for the first copy, if `SEEN` and known.
        provisional_at_s: Unix time of the latest copy, if no copy is known to be accepted: all that
            came passed a milter, which never learns the outcome. 0 if one was accepted.
        is_retry_due: whether this content was accepted, and the client told to try again for the
            sake of others all the same. Never set along with `provisional_at_s`.
    """

    sight: Sight
    first_seen_s: int = 0
    fingerprint: bytes = b""
    copies: int = 0
    note: bytes = b""
    provisional_at_s: int = 0
    is_retry_due: bool = False


NEW = Sighting(Sight.NEW)
IN_FLIGHT = Sighting(Sight.IN_FLIGHT)


@value
class Examination:
    """What the header section says.

    Attributes:
        message_id: form and canonical id.
        message_id_fields: the Message-ID fields as they stand.
        list_id: identifier of the mailing list, or ``b""``.
        resent: identity of the latest resending (RFC 5322 section 3.6.6), or ``b""``.
        date: body of the Date field, or None if it is missing or empty.
        identifying: bodies of From, Date and Subject for the fingerprint.
        signatures: bodies of the DKIM and ARC signatures.
        hops: number of Received fields (RFC 5321 section 6.3).
        forged: fields that bear our name.
        stray: octets behind the last field: the body has begun, without an empty line.
        is_whole: whether all of the section was examined; what was not may hold anything.
    """

    message_id: MessageId
    message_id_fields: tuple[Field, ...]
    list_id: bytes
    resent: bytes
    date: bytes | None
    identifying: tuple[tuple[bytes, ...], ...]
    signatures: tuple[bytes, ...]
    hops: int
    forged: tuple[Field, ...]
    stray: bytes
    is_whole: bool = True

    @property
    def is_id_signed(self) -> bool:
        """Say whether a signature names Message-ID; asked where none is there, or a poor one."""
        return any(map(_signs_message_id, self.signatures))

    @property
    def is_identity_derived(self) -> bool:
        """Say whether only the content can tell what message this is."""
        return self.message_id.canonical is None


@value
class Decision:
    """What to do with a message for one recipient."""

    verdict: Verdict
    action: Action


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the tracking list is told about one recipient: at most one of the two.

    Attributes:
        is_confirmed: this content was accepted downstream, now or (a duplicate) earlier.
        is_released: nothing was accepted; a retry is welcome.
    """

    is_confirmed: bool = False
    is_released: bool = False


def examine(section: bytes, *, is_whole: bool = True) -> Examination:
    """Read all that matters from a raw header section.

    Args:
        section: dots unstuffed; whole lines.
        is_whole: False if it is only the beginning of one that is too long. The last field may go
            on behind the cut then; `forgery` sees to the rest of it if it is one of ours.
    """
    found, stray = select(section, EXAMINED)
    has_fields = start_of_fields(section) < len(section) - len(stray)
    return examined(found, stray, is_whole=is_whole, below=stray if has_fields else b"")


def examined(
    found: Mapping[bytes, Sequence[Field]],
    stray: bytes = b"",
    *,
    is_whole: bool = True,
    below: bytes = b"",
) -> Examination:
    """Read all that matters from fields that were picked already; see `examine`.

    Args:
        found: fields by name, in order; every name of `EXAMINED` a key.
        stray: octets behind the last field.
        below: the same, if there are fields above them.
        is_whole: see `examine`.
    """
    ids = found[b"message-id"]
    date = found[b"date"]
    list_id = found[b"list-id"]
    return Examination(
        message_id=_message_id([field.body for field in ids], below),
        message_id_fields=tuple(ids),
        list_id=_list_identifier(list_id[0].body) if list_id else b"",
        resent=_resent(found[b"resent-message-id"], found[b"resent-from"], found[b"resent-date"]),
        date=(unfolded(date[0].body) or None) if date else None,
        identifying=tuple(
            [tuple([collapsed(f.body) for f in found[name]]) for name in IDENTIFYING_FIELDS]
        ),
        signatures=tuple([field.body for name in _SIGNATURES for field in found[name]]),
        hops=len(found[b"received"]),
        forged=tuple(found[OUR_FIELD]),
        stray=stray,
        is_whole=is_whole,
    )


def _message_id(bodies: Sequence[bytes], below: bytes) -> MessageId:
    """Return form and canonical id of a message.

    Seen in practice: a line that is no field between others, such as a continuation without its
    blank. The header section ends there for most servers, but not at an empty line; relays leave
    what is below as it is, and an id down there identifies the message. It may also be quoted text
    of a sender that forgot the empty line, and so it is weak.
    """
    message_id = message_id_of(bodies)
    if message_id.canonical is None and below:
        canonical = message_id_of(_MESSAGE_ID_LINE.findall(below)).canonical
        if canonical is not None:
            return MessageId(Form.WEAK, canonical)
    return message_id


def identity_of(
    examination: Examination, fingerprint: bytes | None, *, lists_distinct: bool
) -> Identity | None:
    """Return what identifies a message, or None while or because nothing does.

    Args:
        examination: of its header section.
        fingerprint: of the whole message; None while the content has not come.
        lists_distinct: whether a mailing-list copy is another message than the direct one.

    A message without an id is identified by its content, if it has a Date: without one, two
    reports with the same text would be one message.
    """
    list_id = examination.list_id if lists_distinct else b""
    canonical = examination.message_id.canonical
    if canonical is not None:
        return Identity(b"id", canonical, list_id, examination.resent)
    if fingerprint is None or examination.date is None:
        return None
    return Identity(b"derived", fingerprint, list_id, examination.resent)


def decide(
    policy: Policy,
    form: Form,
    sighting: Sighting | None,
    *,
    is_same_content: bool,
    is_young: bool = True,
) -> Decision:
    """Decide what becomes of one recipient's copy.

    Args:
        policy: that holds for the recipient.
        form: of the Message-ID.
        sighting: from the tracking list; None if the list could not be asked.
        is_same_content: whether a `SEEN` copy had the same fingerprint; ignored otherwise.
        is_young: whether a provisional sighting is so recent that its message may have failed, and
            this copy be the retry; ignored for other sightings.

    Returns:
        Verdict and action. Only `Verdict.DUPLICATE` ever comes with `Action.DROPPED`.
    """
    if policy.mode is Mode.BYPASS:
        return Decision(Verdict.BYPASSED, Action.RELAYED)
    if sighting is None:
        return Decision(Verdict.UNCHECKED, _tagged(policy))
    if sighting.sight is Sight.NEW:
        return _NEW
    if sighting.sight is Sight.IN_FLIGHT:
        return Decision(Verdict.IN_FLIGHT, Action.DEFERRED)
    if is_same_content or _is_id_enough(policy, form):
        is_doubtful = sighting.provisional_at_s > 0 and is_young
        is_asked_for = sighting.is_retry_due and is_same_content
        return Decision(
            Verdict.DUPLICATE,
            _duplicate(policy, form, is_doubtful=is_doubtful, is_asked_for=is_asked_for),
        )
    is_plain = policy.collisions is Collisions.RELAY
    return Decision(Verdict.COLLISION, Action.RELAYED if is_plain else _tagged(policy))


def settle(decision: Decision, *, is_accepted: bool) -> Settlement:
    """Say what the tracking list learns once the downstream has answered.

    Args:
        decision: for the recipient.
        is_accepted: whether the downstream answered 2xx for this recipient after the final dot.
            Unknown counts as no: delivering twice is better than losing mail.

    An unchecked message that was accepted is confirmed as well: it is true, and it clears a claim
    whose reply was lost. A dropped duplicate is confirmed again, which counts the copy.
    """
    if decision.verdict is Verdict.BYPASSED:
        return Settlement()
    if decision.action is Action.DROPPED or is_accepted:
        return _CONFIRMED
    return Settlement(
        is_released=decision.verdict in (Verdict.NEW, Verdict.COLLISION, Verdict.UNCHECKED)
    )


def summary(decisions: Sequence[Decision]) -> Decision:
    """Return the decision over a whole message: `PARTIAL` if the verdicts of recipients differ."""
    if len(decisions) == 1:
        return decisions[0]
    verdicts = {decision.verdict for decision in decisions}
    actions = {decision.action for decision in decisions}
    verdict = verdicts.pop() if len(verdicts) == 1 else Verdict.PARTIAL
    return Decision(verdict, next(action for action in _LOUDEST_FIRST if action in actions))


_NEW = Decision(Verdict.NEW, Action.RELAYED)
_CONFIRMED = Settlement(is_confirmed=True)
# As the client is told it: the worst of the replies (`conclusion`).
_LOUDEST_FIRST = (
    Action.REJECTED,
    Action.DEFERRED,
    Action.RELAYED,
    Action.TAGGED,
    Action.OBSERVED,
    Action.DROPPED,
)


def _tagged(policy: Policy) -> Action:
    return Action.OBSERVED if policy.mode is Mode.OBSERVE else Action.TAGGED


def _is_id_enough(policy: Policy, form: Form) -> bool:
    """Say whether the postmaster asked for the id alone to count, and there is one."""
    return policy.match is Match.MESSAGE_ID and form is not Form.MISSING


def _duplicate(policy: Policy, form: Form, *, is_doubtful: bool, is_asked_for: bool) -> Action:
    if is_asked_for and policy.mode is not Mode.OBSERVE:
        # The client tries again for the others' sake; this recipient would get a copy each time.
        return Action.DROPPED
    if policy.mode is not Mode.DROP:
        return _tagged(policy)
    # Where the id alone shall count, it must be one that no two senders share.
    is_poor = form in (Form.WEAK, Form.MULTIPLE) and policy.match is Match.MESSAGE_ID
    return Action.TAGGED if is_poor or is_doubtful else Action.DROPPED


def _list_identifier(body: bytes) -> bytes:
    """Return what identifies a list: not its name before the brackets, and whatever the case.

    RFC 2919 sections 3 and 6. A body without brackets, as some lists write it, counts whole.
    """
    text = collapsed(body)
    match = _IN_LAST_BRACKETS.search(text)
    return (match[1] if match else text).strip().lower()


def _resent(ids: Sequence[Field], froms: Sequence[Field], dates: Sequence[Field]) -> bytes:
    """Identify a resending: its id, who resent it and when; new blocks stand on top.

    All three count, because the topmost id may belong to an older block than the topmost name.
    """
    own_id = (canonical_of(ids[0].body) if ids else None) or b""
    if not own_id and not froms:
        return b""
    who_and_when = (collapsed(group[0].body) if group else b"" for group in (froms, dates))
    return b"\n".join((own_id, *who_and_when))


def _signs_message_id(signature: bytes) -> bool:
    """Say whether a signature covers Message-ID: of DKIM, or ARC (RFC 8617 section 4.1.2)."""
    match = _SIGNED_NAMES.search(signature)
    return match is not None and b"message-id" in b"".join(match[1].split()).lower().split(b":")
