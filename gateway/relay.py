"""One client's transactions: the downstream's replies and the screening, in the order of time.

This is the one place that knows the order of steps. `Relay.message` reads from top to bottom: header
section, claim, then either straight through (the common case: nothing is held) or held back until the
content can be compared; settle; report; reply. A message is never ours: the client is told what the
downstream said, and what the downstream did not accept is released, so that a retry is welcome.

Fails with `ClientError` if the client breaks off, after everything was undone.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

from gateway.core import answer
from gateway.core.content import stuffed
from gateway.core.edition import Edition, EditionSettings, editions
from gateway.core.envelope import Envelope, PathArgument, normalized
from gateway.core.fingerprint import DIGEST_OCTETS
from gateway.core.handover import Client
from gateway.core.policy import Action, Decision, Examination, Verdict, examine, summary
from gateway.core.reply import Reply
from gateway.errors import ContentRefusedError, IdentityError, LostError, UnreachableError
from gateway.inflow import Body, Content, read_head
from gateway.ports import Downstream, Journal, OpenDownstream, Outcome, Report
from gateway.screening import Screened, Screening
from gateway.spool import Spool

_RSET = b"RSET\r\n"
_DATA = b"DATA\r\n"


@dataclass(frozen=True, slots=True)
class Command:
    """A MAIL or RCPT command that the face found well-formed.

    Attributes:
        is_mail: MAIL, else RCPT.
        line: as it came, with CRLF.
        argument: what was read from it.
    """

    is_mail: bool
    line: bytes
    argument: PathArgument


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What the postmaster chose.

    Attributes:
        edition: what may be prepended.
        header_size_octets: longest header section that is examined.
        hops: most Received fields.
        lease_s: of a claim; it is renewed while content flows.
    """

    edition: EditionSettings
    header_size_octets: int
    hops: int
    lease_s: float


@dataclass(frozen=True, slots=True)
class Desk:
    """What every transaction works with; replaced as a whole when the configuration is reloaded."""

    open_downstream: OpenDownstream
    screening: Screening
    journal: Journal
    settings: RelaySettings


@dataclass(frozen=True, slots=True)
class _Transaction:
    """An envelope as the downstream has accepted it.

    Attributes:
        mail: the MAIL command.
        recipients: accepted RCPT commands, each recipient once.
        seats: for each RCPT accepted downstream the index of its recipient.
    """

    mail: Command
    recipients: tuple[Command, ...]
    seats: tuple[int, ...]

    def envelope(self, client: Client) -> Envelope:
        """Return sender and recipients as values."""
        paths = tuple(recipient.argument.path for recipient in self.recipients)
        return Envelope(self.mail.argument.path, paths, client.address)


class Relay:
    """The way of one client's mail to the downstream."""

    def __init__(self, current_desk: Callable[[], Desk]) -> None:
        """Open nothing yet.

        Args:
            current_desk: asked once per transaction.
        """
        self._current_desk = current_desk
        self._desk = current_desk()
        self._client = Client()
        self._downstream: Downstream | None = None
        self._mail: Command | None = None
        self._accepted: list[Command] = []
        self._is_reset_due = False
        self._downstream_wait_s = 0.0

    @property
    def is_open(self) -> bool:
        """Say whether a transaction has begun."""
        return self._mail is not None

    @property
    def has_recipients(self) -> bool:
        """Say whether the downstream has accepted a recipient."""
        return bool(self._accepted)

    async def introduce(self, client: Client) -> None:
        """Take note of who the client is: after HELO or EHLO, which end a transaction."""
        if self._downstream is not None and client != self._client:
            await self._hang_up(politely=True)
        self._client = client
        self._forget()

    async def exchange(self, commands: Sequence[Command]) -> Sequence[Reply]:
        """Pass MAIL and RCPT commands on and return the replies to them, in order.

        The downstream is connected at the first MAIL. Where it cannot be, the replies are ours.
        """
        if self._downstream is None:
            if not commands[0].is_mail:
                return [answer.NEED_MAIL] * len(commands)
            self._desk = self._current_desk()
            if failure := await self._connect():
                return [failure, *[answer.NEED_MAIL] * (len(commands) - 1)]
        replies = await self._asked([command.line for command in commands])
        if replies is None:
            return [answer.LOST] * len(commands)
        for command, reply in zip(commands, replies, strict=True):
            self._note(command, reply)
        return replies

    async def data_without_recipients(self) -> Reply:
        """Let the downstream say what it thinks of DATA with no recipient accepted."""
        if self._downstream is None or self._mail is None:
            return answer.NEED_MAIL
        replies = await self._asked([_DATA])
        if replies is None:
            return answer.LOST
        if replies[0].status_class in (4, 5):
            return replies[0]
        await self._hang_up(politely=False)
        return answer.NO_VALID_RECIPIENTS

    async def reset(self) -> Reply:
        """End the transaction (RFC 5321 section 4.1.1.5)."""
        replies = None
        if self._downstream is not None and self._mail is not None:
            self._is_reset_due = False
            replies = await self._asked([_RSET])
        self._forget()
        return replies[0] if replies else answer.OK

    async def close(self, *, politely: bool) -> None:
        """End the downstream session."""
        await self._hang_up(politely=politely)

    async def message(self, content: Content) -> Reply:
        """Take a message in and see it through; return what the client is to be told.

        Raises:
            ClientError: the client is gone or silent, or sent what must not be passed on. Its
                claims are released, and the downstream has not seen a final dot.
        """
        desk, transaction = self._desk, self._take_transaction()
        envelope = transaction.envelope(self._client)
        watch = _Stopwatch(time.monotonic())
        examination, screened = None, None
        try:
            head = await read_head(content, desk.settings.header_size_octets)
            examination = examine(head.section)
            if examination.hops > desk.settings.hops:
                raise ContentRefusedError("hops")
            body = Body(content, head, examination)
            screened = await self._claimed(head, examination, envelope)
            plan = None if screened is None else self._plan(head, screened, b"")
            if screened is not None and plan is not None and plan.is_direct:
                replies = await self._deliver(plan, transaction, body.blocks)
                await content.discard()
            else:
                with Spool() as spool:
                    await self._fill(spool, body, screened)
                    screened = await self._resolved(screened, examination, envelope, body)
                    plan = self._plan(head, screened, body.fingerprint())
                    replies = await self._deliver(plan, transaction, spool.blocks)
        except BaseException as error:
            await self._undo(screened)
            if isinstance(error, ContentRefusedError):
                self._report_refused(error, envelope, examination, content, watch)
            raise
        outcome = concluded(plan.editions, plan.decisions, replies)
        accepted = [r is not None and r.is_accepted for r in outcome.replies]
        fingerprint = body.fingerprint() if content.is_complete else None
        await desk.screening.settle(screened, plan.decisions, accepted, fingerprint)
        self._report(plan, outcome, envelope, content, watch)
        return outcome.reply

    async def _claimed(
        self, head: Head, examination: Examination, envelope: Envelope
    ) -> Screened | None:
        """Ask the tracking list, unless only the content can tell what message this is."""
        screening = self._desk.screening
        self._renew_at = time.monotonic() + self._desk.settings.lease_s / 2
        if not head.is_complete:
            return screening.unchecked(examination, envelope)
        if examination.is_identity_derived and examination.date is not None:
            return None
        return await screening.claim(examination, envelope)

    async def _resolved(
        self,
        screened: Screened | None,
        examination: Examination,
        envelope: Envelope,
        body: Body,
    ) -> Screened:
        """Ask what could not be asked before the content was known."""
        fingerprint = body.fingerprint()
        if screened is None:
            screened = await self._desk.screening.claim(examination, envelope, fingerprint)
        return await self._desk.screening.resolve(screened, fingerprint)

    async def _fill(self, spool: Spool, body: Body, screened: Screened | None) -> None:
        """Hold the rest of the content back."""
        async for block in body.blocks():
            spool.write(block)
            await self._keep_claims(screened)

    def _plan(self, head: Head, screened: Screened, fingerprint: bytes) -> _Plan:
        """Decide, and compose what leaves.

        Args:
            head: of the message.
            screened: as far as it goes.
            fingerprint: ``b""`` while the content is not known.
        """
        decisions = self._desk.screening.decide(screened)
        has_date = screened.examination.date is not None
        outgoing = editions(
            head.section,
            screened.examination,
            decisions,
            [candidate.sighting for candidate in screened.candidates],
            fingerprint if has_date else secrets.token_bytes(DIGEST_OCTETS),
            self._desk.settings.edition,
        )
        return _Plan(screened, decisions, outgoing)

    async def _deliver(
        self, plan: _Plan, transaction: _Transaction, blocks: OpenBlocks
    ) -> dict[int, Reply]:
        """Pass each edition on in a downstream transaction of its own.

        Returns:
            The reply that holds for each recipient, by index.
        """
        replies: dict[int, Reply] = {}
        for edition in plan.editions:
            if self._downstream is None:
                replies |= dict.fromkeys(edition.members, answer.LOST)
                continue
            try:
                replies |= await self._send(self._downstream, edition, transaction, blocks, plan)
            except LostError as error:
                self._desk.journal.complain("downstream_lost", str(error))
                self._downstream = None
                replies |= dict.fromkeys(edition.members, answer.LOST)
        return replies

    async def _send(
        self,
        downstream: Downstream,
        edition: Edition,
        transaction: _Transaction,
        blocks: OpenBlocks,
        plan: _Plan,
    ) -> dict[int, Reply]:
        """Pass one edition on: envelope if need be, DATA, content, dot."""
        replies: dict[int, Reply] = {}
        seats: Sequence[int] = transaction.seats
        if not self._is_reset_due or len(edition.members) < len(transaction.recipients):
            seats, replies = await self._reopened(transaction, edition.members)
            if not seats:
                return replies
        (go_ahead,) = await self._timed(downstream.exchange([_DATA]))
        if go_ahead.code != _GO_AHEAD:
            self._is_reset_due = True
            return replies | dict.fromkeys(seats, _refusal(go_ahead))
        self._is_content_begun = True
        await self._timed(downstream.write(stuffed(edition.section)))
        async for block in blocks():
            await self._timed(downstream.write(block))
            await self._keep_claims(plan.screened)
        finals = await self._timed(downstream.finish(len(seats)))
        self._is_content_begun = self._is_reset_due = False
        if len(finals) == 1:
            return replies | dict.fromkeys(seats, _final(finals[0]))
        return replies | _worst_by_seat(seats, finals)

    async def _reopened(
        self, transaction: _Transaction, members: Sequence[int]
    ) -> tuple[Sequence[int], dict[int, Reply]]:
        """Begin another transaction for some of the recipients.

        Returns:
            Who was accepted, and the replies to those who were not.
        """
        commands = [transaction.mail, *(transaction.recipients[index] for index in members)]
        answers = await self._asked([command.line for command in commands])
        self._is_reset_due = True
        if not answers[0].is_accepted:
            return (), dict.fromkeys(members, _refusal(answers[0]))
        by_member = dict(zip(members, answers[1:], strict=True))
        seats = [index for index, reply in by_member.items() if reply.is_accepted]
        return seats, {i: _refusal(r) for i, r in by_member.items() if not r.is_accepted}

    async def _undo(self, screened: Screened | None) -> None:
        """Take back everything: no dot for the downstream, no claim on the list."""
        if self._is_content_begun:
            await self._hang_up(politely=False)
        if screened is not None:
            nothing = [False] * len(screened.candidates)
            decisions = self._desk.screening.decide(screened)
            await self._desk.screening.settle(screened, decisions, nothing, None)

    async def _keep_claims(self, screened: Screened | None) -> None:
        """Renew the lease of our claims when half of it is over."""
        if screened is not None and time.monotonic() > self._renew_at:
            self._renew_at = time.monotonic() + self._desk.settings.lease_s / 2
            await self._desk.screening.renew(screened)

    async def _connect(self) -> Reply | None:
        """Open the downstream session; return why not, if not."""
        try:
            self._downstream = await self._timed(self._desk.open_downstream(self._client))
        except IdentityError as error:
            self._desk.journal.complain("identity_not_handed_over", str(error))
            return answer.IDENTITY
        except UnreachableError as error:
            self._desk.journal.complain("downstream_unreachable", str(error))
            return answer.UNREACHABLE
        self._is_reset_due = False
        return None

    async def _asked(self, lines: Sequence[bytes]) -> Sequence[Reply]:
        """Exchange commands, behind an RSET if the last transaction was left open.

        Raises:
            LostError: the session is over.
        """
        if self._downstream is None:
            raise LostError("no session")
        is_reset, self._is_reset_due = self._is_reset_due, False
        answers = await self._timed(
            self._downstream.exchange([_RSET, *lines] if is_reset else lines)
        )
        return answers[1:] if is_reset else answers

    async def _hang_up(self, *, politely: bool) -> None:
        downstream, self._downstream = self._downstream, None
        self._is_content_begun = self._is_reset_due = False
        if downstream is not None:
            await downstream.close(politely=politely)

    async def _timed(self, work: Awaitable[T]) -> T:
        """Wait for the downstream, and keep the time it took apart from ours."""
        started = time.monotonic()
        try:
            return await work
        finally:
            self._downstream_wait_s += time.monotonic() - started

    def _note(self, command: Command, reply: Reply) -> None:
        """Follow the downstream's view of the envelope."""
        if not reply.is_accepted:
            return
        if command.is_mail:
            self._mail, self._accepted = command, []
        elif self._mail is not None:
            self._accepted.append(command)

    def _forget(self) -> None:
        self._mail, self._accepted = None, []

    def _take_transaction(self) -> _Transaction:
        """Close the envelope; the downstream's transaction stays open until it is used or reset."""
        if self._mail is None:
            raise LostError("no transaction")
        index_of: dict[bytes, int] = {}
        recipients = []
        for command in self._accepted:
            if index_of.setdefault(normalized(command.argument.path), len(recipients)) == len(
                recipients
            ):
                recipients.append(command)
        seats = tuple(index_of[normalized(c.argument.path)] for c in self._accepted)
        transaction = _Transaction(self._mail, tuple(recipients), seats)
        self._forget()
        self._is_reset_due = True
        self._downstream_wait_s = 0.0
        return transaction
