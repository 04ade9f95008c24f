"""One client's transactions: the downstream's replies and the screening, in the order of time.

This is the one place that knows the order of steps. `Relay.message` reads from top to bottom:
header section, claim, then either straight through (the common case: nothing is held) or held back
until the content can be compared; conclude; tell the client; settle. A message is never ours: the
client is told what the downstream said, and what the downstream did not accept is released, so that
a retry is welcome.

Fails with `ClientError` if the client breaks off, after everything was undone.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.core import answer
from gateway.core.conclusion import Conclusion, conclude
from gateway.core.edition import Edition, EditionSettings, editions
from gateway.core.envelope import Envelope
from gateway.core.fingerprint import DIGEST_OCTETS
from gateway.core.handover import Client
from gateway.core.policy import Action, Decision, Examination, Verdict, examine, summary
from gateway.core.reply import Reply
from gateway.core.report import Keep, Outcome, Report, entries
from gateway.core.tag import generated_id
from gateway.errors import ContentRefusedError, IdentityError, LostError, UnreachableError
from gateway.hop import Command, Hop, Transaction, transaction_of
from gateway.inflow import Blocks, Body, Content, Head, read_head
from gateway.ports import Journal, OpenDownstream
from gateway.screening import Screened, Screening
from gateway.spool import Spool

Tell = Callable[[Reply], None]
"""Tells the client a reply; does not wait."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What the postmaster chose.

    Attributes:
        edition: what may be prepended.
        header_size_octets: longest header section that is examined.
        hops: most Received fields.
        lease_s: of a claim; it is renewed while content flows.
        keep: which decisions the journal keeps.
    """

    edition: EditionSettings
    header_size_octets: int
    hops: int
    lease_s: float
    keep: Keep


@dataclass(frozen=True, slots=True)
class Desk:
    """What every transaction works with; replaced as a whole when the configuration is reloaded."""

    open_downstream: OpenDownstream
    screening: Screening
    journal: Journal
    settings: RelaySettings


@dataclass(frozen=True, slots=True)
class _Plan:
    """What shall be done, before it is done.

    Attributes:
        screened: as far as it went.
        name: the canonical id, or the one that is generated for want of one; ``b""`` if neither.
        decisions: one per recipient.
        editions: what leaves.
    """

    screened: Screened
    name: bytes
    decisions: tuple[Decision, ...]
    editions: tuple[Edition, ...]


@dataclass(frozen=True, slots=True)
class _Arrival:
    """One message on its way through `Relay.message`: what does not change from step to step."""

    desk: Desk
    transaction: Transaction
    envelope: Envelope
    content: Content
    started_s: float
    downstream_waited_s: float


class Relay:
    """The way of one client's mail to the downstream."""

    def __init__(self, current_desk: Callable[[], Desk]) -> None:
        """Open nothing yet.

        Args:
            current_desk: asked once per transaction.
        """
        self._current_desk = current_desk
        self._client = Client()
        self._hop: Hop | None = None
        self._mail: Command | None = None
        self._accepted: list[Command] = []
        self._renew_at = 0.0
        self._past_waited_s = 0.0

    @property
    def is_open(self) -> bool:
        """Say whether a transaction has begun."""
        return self._mail is not None

    @property
    def recipients(self) -> int:
        """Count the recipients that the downstream has accepted."""
        return len(self._accepted)

    async def introduce(self, client: Client) -> None:
        """Take note of who the client is: after HELO or EHLO, which end a transaction."""
        if self._hop is not None:
            if client != self._client:
                await self.close(politely=True)
            elif self._mail is not None:
                self._hop.leave_open()
        self._client = client
        self._mail, self._accepted = None, []

    async def exchange(self, commands: Sequence[Command]) -> Sequence[Reply]:
        """Pass MAIL and RCPT commands on and return the replies to them, in order.

        The downstream is connected at the first MAIL. Where it cannot be, the replies are ours; so
        are those to commands that make no sense here.
        """
        if self._hop is None:
            if not commands[0].is_mail:
                return [answer.NEED_MAIL] * len(commands)
            if failure := await self._connect():
                return [failure, *[answer.NEED_MAIL] * (len(commands) - 1)]
        replies = await self._asked([command.line for command in commands])
        for command, reply in zip(commands, replies, strict=True):
            if reply.is_accepted and command.is_mail:
                self._mail, self._accepted = command, []
            elif reply.is_accepted and self._mail is not None:
                self._accepted.append(command)
        return replies

    async def data_without_recipients(self) -> Reply:
        """Let the downstream say what it thinks of DATA with no recipient accepted."""
        if self._hop is None:
            return answer.NEED_MAIL
        try:
            reply = await self._hop.ask_data_without_recipients()
        except LostError:
            self._drop_hop()
            return answer.NO_VALID_RECIPIENTS
        return reply

    async def reset(self) -> Reply:
        """End the transaction (RFC 5321 section 4.1.1.5)."""
        is_open, self._mail, self._accepted = self.is_open, None, []
        if self._hop is None or not is_open:
            return answer.OK
        try:
            return await self._hop.reset()
        except LostError:
            self._drop_hop()
            return answer.OK

    async def close(self, *, politely: bool) -> None:
        """End the downstream session."""
        hop = self._hop
        self._drop_hop()
        if hop is not None:
            await hop.close(politely=politely)

    async def message(self, content: Content, tell: Tell) -> None:
        """Take a message in, see it through, and tell the client what became of it.

        Args:
            content: the client has been asked for it.
            tell: called once, unless an error is raised. The list is told afterwards, before this
                returns: if we die in between, the cost is one duplicate.

        Raises:
            ClientError: the client is gone or silent, or sent what must not be passed on. Its
                claims are released, and the downstream has not seen a final dot.
            SpoolError: there is no room to hold the message back; undone likewise.
        """
        arrival = self._arrival(content)
        screened, examination = None, None
        try:
            head = await read_head(content, arrival.desk.settings.header_size_octets)
            examination = _examined(head, arrival.desk.settings)
            body = Body(content, head, examination)
            screened = await self._claimed(arrival, head, examination)
            plan = self._plan(arrival, head, screened, b"") if screened is not None else None
            if plan is not None and not plan.screened.needs_content and len(plan.editions) == 1:
                replies = await self._deliver(arrival, plan, body)
                await content.discard()
            else:
                with Spool() as spool:
                    await self._fill(arrival, spool, body, screened)
                    screened = await self._resolved(arrival, screened, examination, body)
                    plan = self._plan(arrival, head, screened, body.fingerprint())
                    replies = await self._deliver(arrival, plan, spool)
        except BaseException as error:
            await self._undo(arrival, screened)
            if isinstance(error, ContentRefusedError):
                self._report_refused(arrival, examination, screened, error)
            raise
        is_per_recipient = self._hop is not None and self._hop.is_per_recipient
        end = conclude(plan.decisions, replies, is_per_recipient=is_per_recipient)
        tell(end.reply)
        fingerprint = body.fingerprint()
        report = self._report(arrival, plan, end)
        arrival.desk.journal.record(report)
        await arrival.desk.screening.settle(
            plan.screened,
            plan.decisions,
            end.replies,
            fingerprint,
            entries(report, arrival.desk.settings.keep),
            is_retry_due=not end.reply.is_accepted,
        )

    def _arrival(self, content: Content) -> _Arrival:
        """Close the envelope; the downstream's transaction stays open until it is used or reset."""
        if self._mail is None or self._hop is None:
            raise LostError("no transaction")
        transaction = transaction_of(self._mail, self._accepted)
        self._mail, self._accepted = None, []
        return _Arrival(
            self._current_desk(),
            transaction,
            transaction.envelope(self._client.address),
            content,
            time.monotonic(),
            self._downstream_waited_s,
        )

    async def _claimed(
        self, arrival: _Arrival, head: Head, examination: Examination
    ) -> Screened | None:
        """Ask the tracking list, unless only the content can tell what message this is."""
        screening = arrival.desk.screening
        self._renew_at = arrival.started_s + arrival.desk.settings.lease_s / 2
        if not head.is_complete:
            return screening.unchecked(examination, arrival.envelope)
        if examination.is_identity_derived and examination.date is not None:
            return None
        return await screening.claim(examination, arrival.envelope)

    async def _fill(
        self, arrival: _Arrival, spool: Spool, body: Body, screened: Screened | None
    ) -> None:
        """Hold the rest of the content back."""
        while block := await body.read():
            spool.write(block)
            await self._keep_claims(arrival, screened)

    async def _resolved(
        self,
        arrival: _Arrival,
        screened: Screened | None,
        examination: Examination,
        body: Body,
    ) -> Screened:
        """Ask what could not be asked before the content was known."""
        fingerprint = body.fingerprint()
        screening = arrival.desk.screening
        if screened is None:
            screened = await screening.claim(examination, arrival.envelope, fingerprint)
        return await screening.resolve(screened, fingerprint)

    def _plan(self, arrival: _Arrival, head: Head, screened: Screened, fingerprint: bytes) -> _Plan:
        """Decide, and compose what leaves.

        Args:
            arrival: the message.
            head: its beginning.
            screened: as far as it goes.
            fingerprint: ``b""`` while the content is not known.
        """
        decisions = arrival.desk.screening.decide(screened)
        examination, settings = screened.examination, arrival.desk.settings.edition
        digest = fingerprint
        if examination.is_identity_derived and examination.date is None:
            digest = secrets.token_bytes(DIGEST_OCTETS)
        outgoing = editions(
            head.section,
            examination,
            decisions,
            [candidate.sighting for candidate in screened.candidates],
            digest,
            settings,
        )
        name = examination.message_id.canonical or b""
        if not name and digest:
            name = generated_id(examination, digest, settings.id_domain)
        return _Plan(screened, name, decisions, outgoing)

    async def _deliver(self, arrival: _Arrival, plan: _Plan, blocks: Blocks) -> dict[int, Reply]:
        """Pass each edition on in a downstream transaction of its own.

        Returns:
            The reply that holds for each recipient, by index; none for those who get nothing.
        """
        replies: dict[int, Reply] = {}
        for edition in plan.editions:
            if isinstance(blocks, Spool):
                blocks.rewind()
            try:
                replies |= await self._session().send(
                    arrival.transaction,
                    edition.members,
                    edition.section,
                    blocks,
                    lambda: self._keep_claims(arrival, plan.screened),
                )
            except LostError as error:
                arrival.desk.journal.complain("downstream_lost", str(error))
                self._drop_hop()
                replies |= dict.fromkeys(edition.members, answer.LOST)
        if not plan.editions and self._hop is not None:
            self._hop.leave_open()
        return replies

    async def _undo(self, arrival: _Arrival, screened: Screened | None) -> None:
        """Take back everything: no dot for the downstream, no claim on the list."""
        if self._hop is not None:
            if self._hop.is_content_begun:
                await self.close(politely=False)
            else:
                self._hop.leave_open()
        if screened is not None:
            await arrival.desk.screening.release(screened)

    async def _keep_claims(self, arrival: _Arrival, screened: Screened | None) -> None:
        """Renew the lease of our claims when half of it is over."""
        if screened is not None and time.monotonic() > self._renew_at:
            self._renew_at = time.monotonic() + arrival.desk.settings.lease_s / 2
            await arrival.desk.screening.renew(screened)

    async def _connect(self) -> Reply | None:
        """Open the downstream session; return why not, if not."""
        desk = self._current_desk()
        try:
            self._hop = Hop(await desk.open_downstream(self._client))
        except IdentityError as error:
            desk.journal.complain("identity_not_handed_over", str(error))
            return answer.IDENTITY
        except UnreachableError as error:
            desk.journal.complain("downstream_unreachable", str(error))
            return answer.UNREACHABLE
        return None

    async def _asked(self, lines: Sequence[bytes]) -> Sequence[Reply]:
        """Exchange commands; if the session breaks, the replies are ours."""
        try:
            return await self._session().ask(lines)
        except LostError as error:
            self._current_desk().journal.complain("downstream_lost", str(error))
            self._drop_hop()
            return [answer.LOST] * len(lines)

    def _session(self) -> Hop:
        """Return the downstream session.

        Raises:
            LostError: there is none any more.
        """
        if self._hop is None:
            raise LostError("no session")
        return self._hop

    @property
    def _downstream_waited_s(self) -> float:
        """Seconds spent waiting for the downstream, in all sessions so far."""
        return self._past_waited_s + (0.0 if self._hop is None else self._hop.waited_s)

    def _drop_hop(self) -> None:
        """Have no session any more, and so no transaction."""
        self._past_waited_s = self._downstream_waited_s
        self._hop = None
        self._mail, self._accepted = None, []

    def _report(self, arrival: _Arrival, plan: _Plan, end: Conclusion) -> Report:
        """Put together what is known of a message that came to its end."""
        screened = plan.screened
        return self._report_of(
            arrival,
            tuple(
                [
                    Outcome(
                        candidate.forward_path,
                        decision,
                        candidate.key,
                        candidate.sighting if decision.verdict in _RECURRING else None,
                        reply,
                    )
                    for candidate, decision, reply in zip(
                        screened.candidates, end.decisions, end.replies, strict=True
                    )
                ]
            ),
            plan.name,
            screened.examination,
            end.reply,
            is_id_added=any(edition.is_id_added for edition in plan.editions),
        )

    def _report_refused(
        self,
        arrival: _Arrival,
        examination: Examination | None,
        screened: Screened | None,
        error: ContentRefusedError,
    ) -> None:
        """Report a message whose content we refused."""
        verdicts = (
            [decision.verdict for decision in arrival.desk.screening.decide(screened)]
            if screened is not None
            else [Verdict.UNCHECKED] * len(arrival.envelope.forward_paths)
        )
        outcomes = tuple(
            Outcome(path, Decision(verdict, Action.REJECTED))
            for path, verdict in zip(arrival.envelope.forward_paths, verdicts, strict=True)
        )
        report = self._report_of(
            arrival,
            outcomes,
            (examination.message_id.canonical or b"") if examination is not None else b"",
            examination,
            answer.REFUSED_CONTENT[error.kind],
            is_id_added=False,
        )
        arrival.desk.journal.record(report)

    def _report_of(
        self,
        arrival: _Arrival,
        outcomes: tuple[Outcome, ...],
        identity: bytes,
        examination: Examination | None,
        reply: Reply,
        *,
        is_id_added: bool,
    ) -> Report:
        duration_s = time.monotonic() - arrival.started_s
        waited_s = self._downstream_waited_s - arrival.downstream_waited_s
        return Report(
            at_s=time.time(),
            client=self._client,
            reverse_path=arrival.envelope.reverse_path,
            outcomes=outcomes,
            summary=summary([outcome.decision for outcome in outcomes]),
            identity=identity,
            form=None if examination is None else examination.message_id.form,
            is_id_added=is_id_added,
            size_octets=arrival.content.octets,
            reply=reply,
            duration_s=duration_s,
            overhead_s=max(0.0, duration_s - waited_s - arrival.content.waited_s),
        )


def _examined(head: Head, settings: RelaySettings) -> Examination:
    """Examine a header section.

    Raises:
        ContentRefusedError: the message has been through too many servers (RFC 5321 section 6.3).
    """
    examination = examine(head.section, is_whole=head.is_complete)
    if examination.hops > settings.hops:
        raise ContentRefusedError("hops")
    return examination


_RECURRING = (Verdict.DUPLICATE, Verdict.COLLISION)
