"""What the upper floors ask of the world: interfaces of at most four methods each.

Implementations live in ``edge/``; `wiring` and the processes that it serves put them in. They turn
the failures of their libraries into the exceptions named here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Protocol

from gateway.core.handover import Client
from gateway.core.policy import Sighting
from gateway.core.reply import Reply
from gateway.core.report import Entry, Report
from gateway.core.unique_id import UniqueId
from gateway.core.value import value


@value
class Record:
    """A confirmed sighting as a tracking list keeps it.

    Attributes:
        unique_id: key.
        first_seen_s: Unix time of the first copy.
        fingerprint: sealed digest of the content.
        copies: sightings so far.
        window_s: from the first sighting; the record is gone after it.
        note: the downstream's queue id for the first copy; a list may cut it off after 22 octets.
        provisional_at_s: as in `Sighting`; 0 if a copy was accepted.
        is_retry_due: as in `Sighting`.
        token: of the claim that this settles; not kept.
    """

    unique_id: UniqueId
    first_seen_s: int
    fingerprint: bytes
    copies: int
    window_s: float
    note: bytes = b""
    provisional_at_s: int = 0
    is_retry_due: bool = False
    token: bytes = b""


class TrackingList(Protocol):
    """Remembers what was accepted downstream, and who is delivering what now (RFC 7352 section 3).

    Every method but `close` raises `TrackingListError` if the list does not answer in time; the
    outcome of the call is unknown then. No call can make a message a duplicate of itself, however
    often it is repeated.
    """

    async def claim(
        self, unique_ids: Sequence[UniqueId], token: bytes, lease_s: float
    ) -> Sequence[Sighting]:
        """Claim each id for one transaction, or learn who came first.

        Args:
            unique_ids: distinct; they share their `UniqueId.message`.
            token: eight octets that no other transaction has. Ids claimed under the same token
                already stay claimed, for another lease.
            lease_s: how long the claim holds without being confirmed or released.

        Returns:
            One sighting per id, in order. `NEW`: claimed by this call, or by this token before. A
            claim ends with its lease, or when the worker that made it has been dead for 30 s.
        """

    async def confirm(self, records: Sequence[Record], entries: Sequence[Entry] = ()) -> None:
        """Remember what the downstream accepted, in place of any claim or older record.

        Args:
            records: at least one; they share their `UniqueId.message`.
            entries: for the journal, in the same round trip.
        """

    async def release(
        self, unique_ids: Sequence[UniqueId], token: bytes, entries: Sequence[Entry] = ()
    ) -> None:
        """Give up the claims this token holds; others and records stay.

        Args:
            unique_ids: they share their `UniqueId.message`; none if only entries are to be kept.
            token: as in `claim`.
            entries: for the journal, in the same round trip.
        """

    async def close(self) -> None:
        """Let go of all resources, claims still held among them; never raises."""


class History(Protocol):
    """What tracking list and journal know of the past, for `trace`, `forget` and the console.

    Every method raises `TrackingListError` if the list does not answer. These calls may take
    seconds; none is made on the way of a message.
    """

    async def trail(self, identity: bytes, limit: int) -> Sequence[Entry]:
        """Return the newest journal entries of one canonical id, oldest first."""

    async def latest(self, limit: int) -> Sequence[Entry]:
        """Return the newest journal entries of all, newest first."""

    async def known(self, message: bytes) -> Sequence[tuple[UniqueId, Sighting]]:
        """Return all that is tracked under one `UniqueId.message`: records and claims."""

    async def forget(self, message: bytes, recipient: bytes | None) -> int:
        """Remove records and claims, so that the next copy passes as new; the journal stays.

        Args:
            message: `UniqueId.message`.
            recipient: `UniqueId.recipient`, or None for all.

        Returns:
            How many were removed.
        """


class Downstream(Protocol):
    """One session with the server that mail is passed to.

    Any failure of the connection raises `LostError`; the session is then unusable, and for a
    message whose final dot was sent the outcome is unknown.
    """

    @property
    def waited_s(self) -> float:
        """Seconds spent waiting for the server so far."""

    async def exchange(self, commands: Sequence[bytes]) -> Sequence[Reply]:
        """Send commands, each a line with CRLF, and return their replies in order."""

    def write(self, content: bytes) -> Awaitable[None]:
        """Send content octets in wire form; waits while the downstream is slow to take them."""

    async def finish(self, recipients: int) -> Sequence[Reply]:
        """Send the final dot and wait for the outcome.

        Args:
            recipients: how many the downstream has accepted in this transaction.

        Returns:
            One reply for all (SMTP), or one per recipient in order (LMTP, RFC 2033 section 4.2).
        """

    async def close(self, *, politely: bool) -> None:
        """End the session: with QUIT, or at once, so that content without a dot is void."""


OpenDownstream = Callable[[Client], Awaitable[Downstream]]
"""Opens a session in the name of a client; raises `UnreachableError` or `IdentityError`."""

Observe = Callable[[str, str, float], None]
"""Told by an adapter what an operation came to: its label, the result's label, seconds."""


class Journal(Protocol):
    """Where decisions are explained: the log and the counters. No method waits or raises."""

    def record(self, report: Report) -> None:
        """Take in one finished transaction."""

    def complain(self, event: str, reason: str) -> None:
        """Log that something in the world is wrong, with what a postmaster can do about it.

        Args:
            event: such as ``"downstream_lost"``; the same for the same fault.
            reason: free text.
        """


class Admission(Enum):
    """What becomes of a new session."""

    ADMITTED = "admitted"
    TOO_MANY = "too many sessions"
    TOO_MANY_OF_CLIENT = "too many sessions of this client"


class Census(Protocol):
    """Counts the sessions of all workers. No method waits or raises."""

    def enter(self, address: str) -> Admission:
        """Count a session in, if there may be one more; then it must `leave` again."""

    def leave(self, address: str) -> None:
        """Count an admitted session out."""


class Meter(Protocol):
    """What faces count besides messages. No method waits or raises."""

    def session_began(self) -> None:
        """Count a client's connection in."""

    def session_ended(self, *, is_tls: bool, result: str) -> None:
        """Count it out; ``result`` is ``ok lost timeout refused`` or ``error``."""

    def protocol_error(self, kind: str) -> None:
        """Count what a client must not do; ``kind`` as in ``mailonce_protocol_errors_total``."""
