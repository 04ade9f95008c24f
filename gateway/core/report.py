"""What became of a message: the facts behind the log line, the counters, the journal and `trace`.

A `Report` is made once per transaction and never changed. An `Entry` is one recipient's part of it,
as the journal keeps it: text only, safe to print as JSON (octets above 127 as latin-1).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import lru_cache
from typing import Any

from gateway.core.answer import DUPLICATE
from gateway.core.handover import Client
from gateway.core.message_id import Form
from gateway.core.policy import Action, Decision, Sight, Sighting, Verdict
from gateway.core.reply import Reply
from gateway.core.unique_id import UniqueId
from gateway.core.value import value

# Postfix says "queued as 4ABC", Exim "OK id=1tEXyz-000AbC-DE".
_QUEUE_ID = re.compile(rb"(?i)\b(?:queued as |id=)([A-Za-z0-9._-]{1,64})")
_MAX_TEXT = 512


class Keep(StrEnum):
    """Which decisions the journal keeps (``journal.keep``)."""

    OFF = "off"
    DUPLICATES = "duplicates"
    ALL = "all"


@value
class Outcome:
    """What became of a message for one recipient.

    Attributes:
        forward_path: recipient.
        decision: verdict, and the action in the end: what the downstream refused is `REJECTED` or
            `DEFERRED`.
        unique_id: under which it is tracked; None if it is not.
        first: the earlier copy, of a duplicate or collision.
        reply: the downstream's last word on this recipient's copy; None if it was not asked.
    """

    forward_path: bytes
    decision: Decision
    unique_id: UniqueId | None = None
    first: Sighting | None = None
    reply: Reply | None = None


@value
class Report:
    """All that is known of one transaction once it is over.

    Attributes:
        at_s: Unix time of its end.
        client: who sent it.
        reverse_path: ``b""`` for the null reverse-path.
        outcomes: one per recipient.
        summary: over the whole message.
        identity: canonical Message-ID, or the one that is generated where it has none; ``b""`` if
            there is neither.
        form: of the Message-ID; None if the header section never came.
        is_id_added: whether a Message-ID was prepended.
        size_octets: content as received, in wire form.
        reply: what the client is told.
        duration_s: from the 354 to the reply.
        overhead_s: the part of it that was ours: without waiting for client or downstream.
        is_header_whole: False if its header section was too long to be examined.
    """

    at_s: float
    client: Client
    reverse_path: bytes
    outcomes: tuple[Outcome, ...]
    summary: Decision
    identity: bytes
    form: Form | None
    is_id_added: bool
    size_octets: int
    reply: Reply
    duration_s: float
    overhead_s: float
    is_header_whole: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision as the journal keeps it.

    Attributes:
        at_s: Unix time.
        message_id: `Report.identity` as text.
        form: of the Message-ID.
        recipient: forward-path.
        reverse_path: ``""`` for the null reverse-path.
        client: its address, ``""`` for a unix socket.
        helo: as it gave it.
        verdict: see `Verdict`.
        action: see `Action`.
        size_octets: of the content.
        reply: last line from the downstream, or ours where it was not asked.
        queue_id: the downstream's, ``""`` if it named none.
        key: hexadecimal unique id, ``""`` if not tracked.
        first_seen_s: Unix time of the first copy, 0 if this is it.
        first_queue_id: the downstream's for the first copy.
        copies: sightings of this content, this one included.
    """

    at_s: float
    message_id: str
    form: str
    recipient: str
    reverse_path: str
    client: str
    helo: str
    verdict: str
    action: str
    size_octets: int
    reply: str
    queue_id: str
    key: str
    first_seen_s: int
    first_queue_id: str
    copies: int

    def to_json(self) -> bytes:
        """Return the entry as one line of ASCII JSON."""
        # Not asdict, which copies each text once more: a tenth of what a duplicate cost.
        return _encode({name: getattr(self, name) for name in _NAMES}).encode("ascii")

    @classmethod
    def from_json(cls, octets: bytes) -> Entry | None:
        """Read an entry; None if it was written by something else."""
        try:
            values: Any = json.loads(octets)
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except (ValueError, TypeError, KeyError):
            return None


_NAMES = tuple([field.name for field in fields(Entry)])
_encode = json.JSONEncoder(separators=(",", ":")).encode


def queue_id_of(answer: Reply | None) -> bytes:
    """Return the queue id in an accepting reply, or ``b""``."""
    if answer is None or not answer.is_accepted:
        return b""
    return _queue_id_in(answer.wire)


@lru_cache(maxsize=64)
def _queue_id_in(wire: bytes) -> bytes:
    """Find the queue id in a reply; log, list and journal ask for the same one, one by one."""
    match = _QUEUE_ID.search(wire)
    return match[1] if match else b""


def entries(report: Report, keep: Keep) -> Sequence[Entry]:
    """Return what the journal shall keep of a report, one entry per recipient."""
    if keep is Keep.OFF:
        return ()
    return tuple(
        _entry(report, outcome)
        for outcome in report.outcomes
        if keep is Keep.ALL or outcome.decision.verdict is not Verdict.NEW
    )


def _entry(report: Report, outcome: Outcome) -> Entry:
    key, first = outcome.unique_id, outcome.first
    is_seen = first is not None and first.sight is Sight.SEEN
    is_duplicate = outcome.decision.verdict is Verdict.DUPLICATE
    # The client may have been told of another recipient's copy: that says nothing of a dropped one.
    is_dropped = outcome.decision.action is Action.DROPPED
    told = outcome.reply or (DUPLICATE if is_dropped else report.reply)
    return Entry(
        at_s=round(report.at_s, 3),
        message_id=as_text(report.identity),
        form=report.form or "",
        recipient=as_text(outcome.forward_path),
        reverse_path=as_text(report.reverse_path),
        client=report.client.address,
        helo=report.client.helo[:_MAX_TEXT],
        verdict=outcome.decision.verdict,
        action=outcome.decision.action,
        size_octets=report.size_octets,
        reply=told.text[:_MAX_TEXT],
        queue_id=queue_id_of(outcome.reply).decode("ascii"),
        key="" if key is None else (key.message + key.recipient + key.variant).hex(),
        first_seen_s=first.first_seen_s if first is not None and is_seen else 0,
        first_queue_id=first.note.decode("latin-1") if first is not None and is_seen else "",
        copies=first.copies + 1 if first is not None and is_seen and is_duplicate else 1,
    )


def as_text(octets: bytes) -> str:
    """Return an identity or a path as entries show it: octets as latin-1, cut off after 512."""
    return octets[:_MAX_TEXT].decode("latin-1")
