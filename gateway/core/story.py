"""The life of one message, told from journal entries and what the tracking list holds.

For `trace`, `forget` and the console: which identity a postmaster means by what was pasted, the
copies of that message in the order of time, and why each was taken for what it was taken for.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

from gateway.core.answer import IN_FLIGHT, LOST, NO_ROOM, REFUSED_CONTENT, UNCHECKED
from gateway.core.message_id import canonical_of_pasted
from gateway.core.policy import Action, Sighting
from gateway.core.report import Entry
from gateway.core.unique_id import MESSAGE_OCTETS, RECIPIENT_OCTETS, Identity, UniqueId

# The digest of 16 octets in base32, as in the Message-ID that a message without one is given.
_DERIVED = re.compile(rb"(?:[0-9]{14}\.)?([a-z2-7]{26})(?:@.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Copy:
    """One transaction in which the message came.

    Attributes:
        entries: one per recipient; they share all but recipient, decision and reply.
    """

    entries: tuple[Entry, ...]

    @property
    def head(self) -> Entry:
        """The first recipient's, for what all share."""
        return self.entries[0]


@dataclass(frozen=True, slots=True)
class Origin:
    """A first copy that later ones refer to, and the journal itself does not hold.

    Attributes:
        at_s: Unix time when it came.
        queue_id: the downstream's, ``""`` if not known.
        recipients: who got it, as far as later copies tell.
    """

    at_s: int
    queue_id: str
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Holding:
    """What the tracking list holds for one recipient, now.

    Attributes:
        key: hexadecimal unique id.
        recipient: address, ``""`` if the journal does not tell it.
        is_variant: whether it is about a list copy, a resending, or another content of that id.
        sighting: as the list would answer a claim.
    """

    key: str
    recipient: str
    is_variant: bool
    sighting: Sighting


@dataclass(frozen=True, slots=True)
class Story:
    """Everything known of one Message-ID.

    Attributes:
        message_id: canonical, as the journal writes it.
        origins: first copies known only from later ones, oldest first.
        copies: oldest first.
        holdings: what the tracking list holds.
    """

    message_id: str
    origins: tuple[Origin, ...] = ()
    copies: tuple[Copy, ...] = ()
    holdings: tuple[Holding, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Say whether nothing is known."""
        return not self.copies and not self.holdings


def identities_of(pasted: bytes) -> tuple[Identity, ...]:
    """Return which messages may be meant.

    Args:
        pasted: a Message-ID with or without brackets, or the one that a message without any was
            given by us, whole or only its digest.

    Returns:
        One identity or two, the literal one first; none if this is no Message-ID.
    """
    canonical = canonical_of_pasted(pasted)
    if canonical is None:
        return ()
    found = [Identity(b"id", canonical)]
    if match := _DERIVED.fullmatch(canonical):
        digest = base64.b32decode(match[1].upper() + b"======")
        found.append(Identity(b"derived", digest))
    return tuple(found)


def story(
    message_id: str, entries: Sequence[Entry], known: Iterable[tuple[UniqueId, Sighting]]
) -> Story:
    """Put together what is known of one message.

    Args:
        message_id: canonical, as the journal writes it.
        entries: of the journal, in any order.
        known: of the tracking list.
    """
    ordered = sorted(entries, key=lambda entry: entry.at_s)
    copies = tuple(Copy(tuple(group)) for _, group in groupby(ordered, key=_transaction))
    names = {entry.key[:_RECIPIENT_END]: entry.recipient for entry in ordered if entry.key}
    return Story(message_id, _origins(ordered), copies, _holdings(known, names))


def as_json(told: Story) -> Mapping[str, object]:
    """Return a story as values for JSON; their names are an interface."""
    return {
        "message_id": told.message_id,
        "first_copies": [asdict(origin) for origin in told.origins],
        "copies": [[asdict(entry) for entry in copy.entries] for copy in told.copies],
        "tracked": [holding_json(holding) for holding in told.holdings],
    }


def holding_json(holding: Holding) -> Mapping[str, object]:
    """Return what the list holds for one recipient as values for JSON."""
    return {
        "key": holding.key,
        "recipient": holding.recipient,
        "is_variant": holding.is_variant,
        "state": holding.sighting.sight.value,
        "first_seen_s": holding.sighting.first_seen_s,
        "copies": holding.sighting.copies,
        "queue_id": holding.sighting.note.decode("latin-1"),
        "provisional_at_s": holding.sighting.provisional_at_s,
        "is_retry_due": holding.sighting.is_retry_due,
    }


def explanation(entry: Entry) -> str:
    """Say in one sentence why a copy was taken for what it was, and what became of it, by whom.

    The reply itself is not in it: whoever shows an entry shows that, too, and escapes it.
    """
    if entry.action == Action.REJECTED and entry.reply in _OUR_REFUSALS:
        # Whatever the verdict was by then: it has nothing to do with this end.
        return f"We refused its content: {entry.reply}."
    why = _WHY.get(entry.verdict, "The verdict was {verdict}").format(verdict=entry.verdict)
    what = _WHAT.get(entry.action, "it was {action}").format(action=entry.action)
    if entry.action == Action.DEFERRED and entry.reply in _OUR_DEFERRALS:
        what = _WE_DEFER
    return f"{why}; {what}."


_OUR_REFUSALS = frozenset([reply.text for reply in REFUSED_CONTENT.values()])
_OUR_DEFERRALS = frozenset([reply.text for reply in (IN_FLIGHT, UNCHECKED, LOST, NO_ROOM)])
_WHY = {
    "new": "Not seen before for this recipient",
    "duplicate": "This recipient had this message already",
    "collision": "This recipient had another message with this Message-ID: the content differs",
    "in_flight": "Another copy was being delivered at that moment",
    "unchecked": "It could not be checked: the tracking list did not answer, or the header section "
    "was too long",
    "bypassed": "A policy exempts it from being checked",
}
_WHAT = {
    "relayed": "passed on without a mark",
    "tagged": "passed on with an X-Mailonce field",
    "dropped": "not passed on, and the sender was told that it is a duplicate",
    "observed": "passed on without a mark, since the policy only observes",
    "rejected": "the downstream refused it for good",
    "deferred": "the downstream put it off, and the sender was told to try again",
}
_WE_DEFER = "we put it off: the sender was told to try again"
_RECIPIENT_END = 2 * (MESSAGE_OCTETS + RECIPIENT_OCTETS)  # hexadecimal digits


def _transaction(entry: Entry) -> tuple[float, str, str, str, int]:
    return entry.at_s, entry.client, entry.helo, entry.reverse_path, entry.size_octets


def _origins(ordered: Sequence[Entry]) -> tuple[Origin, ...]:
    """Return the first copies that entries refer to and that are no entries themselves."""
    told = {entry.queue_id for entry in ordered if entry.queue_id}
    referred: dict[tuple[int, str], list[str]] = {}
    earliest = min((entry.at_s for entry in ordered), default=0.0)
    for entry in ordered:
        if not entry.first_seen_s or entry.first_queue_id in told:
            continue
        if not entry.first_queue_id and entry.first_seen_s >= int(earliest):
            continue
        recipients = referred.setdefault((entry.first_seen_s, entry.first_queue_id), [])
        if entry.recipient not in recipients:
            recipients.append(entry.recipient)
    return tuple(
        Origin(at_s, queue_id, tuple(recipients))
        for (at_s, queue_id), recipients in sorted(referred.items())
    )


def _holdings(
    known: Iterable[tuple[UniqueId, Sighting]], names: dict[str, str]
) -> tuple[Holding, ...]:
    holdings = []
    for unique_id, sighting in known:
        whose = (unique_id.message + unique_id.recipient).hex()
        key = whose + unique_id.variant.hex()
        holdings.append(Holding(key, names.get(whose, ""), bool(unique_id.variant), sighting))
    return tuple(
        sorted(holdings, key=lambda h: (h.recipient, h.sighting.first_seen_s, h.is_variant, h.key))
    )
