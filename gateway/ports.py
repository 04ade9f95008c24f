"""What the upper floors ask of the world: three interfaces, each of at most four methods.

Implementations live in ``edge/`` and are wired by ``service`` only. They turn the failures of their
libraries into the exceptions named here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.policy import Action, Decision, Sighting
from gateway.core.message_id import Form
from gateway.core.reply import Reply
from gateway.core.unique_id import UniqueId


@dataclass(frozen=True, slots=True)
class Record:
    """A confirmed sighting as a tracking list keeps it.

    Attributes:
        unique_id: key.
        first_seen_s: Unix time of the first copy.
        fingerprint: sealed digest of the content.
        copies: sightings so far.
        window_s: from the first sighting; the record is gone after it.
    """

    unique_id: UniqueId
    first_seen_s: int
    fingerprint: bytes
    copies: int
    window_s: float


class TrackingList(Protocol):
    """Remembers what was accepted downstream, and who is delivering what right now (RFC 7352).

    Every method raises `TrackingListError` if the list does not answer; the outcome of the call is
    unknown then. No call can make a message a duplicate of itself, however often it is repeated.
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
            claim ends with its lease, or when the worker that made it has died.
        """

    async def confirm(self, records: Sequence[Record]) -> None:
        """Remember what the downstream accepted, in place of any claim or older record."""

    async def release(self, unique_ids: Sequence[UniqueId], token: bytes) -> None:
        """Give up the claims this token holds; others and records stay."""

    async def close(self) -> None:
        """Let go of all resources. Claims still held die with their worker."""


class Downstream(Protocol):
    """One session with the server that mail is passed to.

    Any failure of the connection raises `LostError`; the session is then unusable, and for a
    message whose final dot was sent the outcome is unknown.
    """

    async def exchange(self, commands: Sequence[bytes]) -> Sequence[Reply]:
        """Send commands, each a line with CRLF, and return their replies in order."""

    async def write(self, content: bytes) -> None:
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message for one recipient."""

    forward_path: bytes
    decision: Decision
    first_seen_s: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known of one message, for the log line and the counters.

    Attributes:
        client: address, HELO name and port as they shall appear in a log.
        reverse_path: ``b""`` for the null reverse-path.
        outcomes: one per recipient.
        canonical: canonical or derived identity as text in latin-1, ``""`` if none.
        form: of the Message-ID.
        is_id_added: whether a Message-ID was prepended.
        size_octets: content as received, in wire form.
        reply: what the client is told.
        downstream_reply: what the downstream said last about it, or None.
        at_s: Unix time of the end of the message.
        duration_s: from the 354 to the reply.
        overhead_s: the part of it that was ours: without waiting for client or downstream.
    """

    client: str
    helo: str
    reverse_path: bytes
    outcomes: tuple[Outcome, ...]
    summary: Decision
    canonical: str
    form: Form | None
    is_id_added: bool
    size_octets: int
    reply: Reply
    downstream_reply: Reply | None
    at_s: float
    duration_s: float
    overhead_s: float


class Journal(Protocol):
    """Where decisions are explained: the log, the counters."""

    def record(self, report: Report) -> None:
        """Take in one finished message; never raises."""


__all__ = ["Action", "Downstream", "Journal", "Outcome", "Record", "Report", "TrackingList"]
