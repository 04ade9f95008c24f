"""One client's transactions: the downstream's replies and the screening, in the order of time.

This is the one place that knows the order of the steps. `Relay.message` reads from top to bottom:
header section; claim; then either straight through (the common case: nothing is held) or held back
until the content can be compared; conclude; tell the client; settle. We never take custody of a
message: the client is told what the downstream said, and what the downstream did not accept is
released, so that a retry passes.

Fails with `ClientError` if the client breaks off, after everything was undone. A failure of the
downstream is a reply, one of the tracking list no failure at all (see `screening`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gateway.account import Passage, completed, refused
from gateway.candidate import Screened
from gateway.core import answer
from gateway.core.conclusion import Conclusion, conclude
from gateway.core.envelope import Envelope
from gateway.core.handover import Client
from gateway.core.policy import Examination, examine
from gateway.core.reply import Reply
from gateway.core.report import Report, entries
from gateway.core.value import value
from gateway.desk import Desk
from gateway.errors import (
    ContentRefusedError,
    IdentityError,
    LostError,
    RelayOpenError,
    SpoolError,
    UnreachableError,
)
from gateway.hop import Command, Hop, Transaction, transaction_of
from gateway.inflow import Blocks, Body, Content, Head, check_hops, read_head
from gateway.lease import Lease
from gateway.plan import Plan, plan_of
from gateway.spool import Spool

Tell = Callable[[Reply], None]
"""Tells the client a reply; does not wait."""


@value
class _Arrival:
    """One message in `Relay.message`: what stays the same from its first step to its last.

    Attributes:
        desk: in force when the message began; a reload does not change it.
        transaction: commands that the downstream has accepted.
        envelope: the same as values.
        content: from the client.
        lease: of its claims.
        started_s: monotonic time of the 354.
        downstream_waited_s: how long the session had waited for the downstream by then.
    """

    desk: Desk
    transaction: Transaction
    envelope: Envelope
    content: Content
    lease: Lease
    started_s: float
    downstream_waited_s: float


class Relay:
    """Passes one client's mail on to the downstream."""

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
        self._is_transaction_lost = False
        self._past_waited_s = 0.0

    @property
    def is_open(self) -> bool:
        """Say whether a transaction has begun."""
        return self._mail is not None

    @property
    def is_transaction_lost(self) -> bool:
        """Say whether a transaction broke that the client still believes to be open."""
        return self._is_transaction_lost

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
        self._is_transaction_lost = False

    async def exchange(self, commands: Sequence[Command]) -> Sequence[Reply]:
        """Pass MAIL and RCPT commands on and return the replies to them, in order.

        The first MAIL opens the downstream session. If that fails or breaks, replies are ours.
        """
        self._is_transaction_lost = False
        is_fresh = self._hop is None
        if is_fresh:
            if not commands[0].is_mail:
                return [answer.NEED_MAIL] * len(commands)
            if failure := await self._connect():
                return [failure, *[answer.NEED_MAIL] * (len(commands) - 1)]
        try:
            replies = await self._session().ask([command.line for command in commands])
        except LostError as error:
            if commands[0].is_mail and not is_fresh:
                # The server may have ended an idle session; nothing was begun that could be lost.
                self._drop_hop()
                return await self.exchange(commands)
            self._lost(error)
            self._is_transaction_lost = True
            replies = [answer.LOST] * len(commands)
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
            return await self._hop.ask_data_without_recipients()
        except LostError:
            self._drop_hop()
            return answer.NO_VALID_RECIPIENTS

    async def reset(self) -> Reply:
        """End the transaction (RFC 5321 section 4.1.1.5)."""
        is_open, self._mail, self._accepted = self.is_open, None, []
        self._is_transaction_lost = False
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
        screening = arrival.desk.screening
        screened, examination = None, None
        try:
            head = await read_head(content, arrival.desk.settings.header_size_octets)
            examination = examine(head.section, is_whole=head.is_complete)
            check_hops(examination, arrival.desk.settings.hops)
            body = Body(content, head, examination)
            screened = await self._claimed(arrival, head, examination)
            plan = self._early_plan(arrival, head, screened)
            if plan is not None:
                replies = await self._deliver(arrival, plan, body)
                await content.discard()
            else:
                with Spool() as spool:
                    await self._fill(arrival, spool, body, screened)
                    fingerprint = body.fingerprint()
                    if screened is None:
                        screened = await screening.claim(examination, arrival.envelope, fingerprint)
                    screened = await screening.resolve(screened, fingerprint)
                    plan = self._plan(arrival, head, screened, fingerprint)
                    replies = await self._deliver(arrival, plan, spool)
        except (ContentRefusedError, SpoolError) as error:
            await self._refuse(arrival, examination, screened, error)
            raise
        except BaseException:
            await self._undo(arrival, screened)
            raise
        end = conclude(plan.decisions, replies)
        report = self._recorded(arrival, plan, end)  # who reads metrics after the reply finds it
        tell(end.reply)
        await self._settle(arrival, plan, end, report, body.fingerprint())

    def _arrival(self, content: Content) -> _Arrival:
        """Close the envelope; the downstream's transaction stays open until it is used or reset."""
        if self._mail is None or self._hop is None:
            raise LostError("no transaction")
        transaction = transaction_of(self._mail, self._accepted)
        self._mail, self._accepted = None, []
        desk, started_s = self._current_desk(), time.monotonic()
        return _Arrival(
            desk,
            transaction,
            transaction.envelope(self._client.address),
            content,
            Lease(desk.screening, desk.settings.lease_s, started_s),
            started_s,
            self._downstream_waited_s,
        )

    async def _claimed(
        self, arrival: _Arrival, head: Head, examination: Examination
    ) -> Screened | None:
        """Ask the tracking list; None if it takes the content to tell what message this is."""
        screening = arrival.desk.screening
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
            await arrival.lease.keep(screened, is_content_flowing=True)

    def _early_plan(self, arrival: _Arrival, head: Head, screened: Screened | None) -> Plan | None:
        """Return the plan of a message that can stream through; None if it has to be held back.

        Content that must be compared, goes out more than once, or not at all, is read first.
        """
        if screened is None or screened.needs_content:
            return None
        plan = self._plan(arrival, head, screened, b"")
        return plan if len(plan.editions) == 1 else None

    def _plan(self, arrival: _Arrival, head: Head, screened: Screened, fingerprint: bytes) -> Plan:
        """Decide, and compose what leaves; see `plan_of`."""
        desk = arrival.desk
        decisions = desk.screening.decide(screened)
        return plan_of(head.section, screened, decisions, fingerprint, desk.settings.edition)

    async def _deliver(self, arrival: _Arrival, plan: Plan, blocks: Blocks) -> dict[int, Reply]:
        """Pass each edition on in a downstream transaction of its own.

        Returns:
            The reply that holds for each recipient, by index; none for those who get nothing.
        """
        replies: dict[int, Reply] = {}
        is_flowing = not isinstance(blocks, Spool)
        for edition in plan.editions:
            try:
                if isinstance(blocks, Spool):
                    blocks.rewind()
                replies |= await self._session().send(
                    arrival.transaction,
                    edition.members,
                    edition.section,
                    blocks,
                    lambda: arrival.lease.keep(plan.screened, is_content_flowing=is_flowing),
                )
            except LostError as error:
                self._lost(error)
                replies |= dict.fromkeys(edition.members, answer.LOST)
            except SpoolError as error:
                # Another edition may have been accepted: what it came to must be remembered.
                arrival.desk.journal.complain("spool_failed", str(error))
                await self.close(politely=False)
                replies |= dict.fromkeys(edition.members, answer.NO_ROOM)
        if not plan.editions and self._hop is not None:
            self._hop.leave_open()
        return replies

    def _recorded(self, arrival: _Arrival, plan: Plan, end: Conclusion) -> Report:
        """Put the end of a message on record in log and counters, and return what was put."""
        passage = self._passage(arrival)
        report = completed(passage, plan.screened, end, plan.name, is_id_added=plan.is_id_added)
        arrival.desk.journal.record(report)
        return report

    async def _settle(
        self, arrival: _Arrival, plan: Plan, end: Conclusion, report: Report, fingerprint: bytes
    ) -> None:
        """Tell the tracking list the outcome: only what the downstream accepted is confirmed."""
        await arrival.desk.screening.settle(
            plan.screened,
            plan.decisions,
            end.replies,
            fingerprint,
            entries(report, arrival.desk.settings.keep),
            is_retry_due=not end.reply.is_accepted,
        )

    async def _undo(self, arrival: _Arrival, screened: Screened | None) -> None:
        """Take everything back: no dot for the downstream, no claim on the list."""
        await self._take_back()
        await arrival.desk.screening.release(screened)

    async def _take_back(self) -> None:
        """See to it that the downstream never sees the end of a message."""
        if self._hop is not None and self._hop.is_content_begun:
            await self.close(politely=False)
        elif self._hop is not None:
            self._hop.leave_open()

    async def _refuse(
        self,
        arrival: _Arrival,
        examination: Examination | None,
        screened: Screened | None,
        error: ContentRefusedError | SpoolError,
    ) -> None:
        """Take everything back, and report a message that we refused, as far as it had come."""
        await self._take_back()
        decisions = None
        if screened is not None and not screened.needs_content:
            decisions = arrival.desk.screening.decide(screened)
        report = refused(self._passage(arrival), examination, decisions, error)
        arrival.desk.journal.record(report)
        await arrival.desk.screening.release(screened, entries(report, arrival.desk.settings.keep))

    async def _connect(self) -> Reply | None:
        """Open the downstream session; return the reply that says why there is none, or None."""
        desk = self._current_desk()
        try:
            self._hop = Hop(await desk.open_downstream(self._client))
        except RelayOpenError as error:
            desk.journal.complain("relay_probe_failed", str(error))
            return answer.NOT_PROVEN
        except IdentityError as error:
            desk.journal.complain("identity_not_handed_over", str(error))
            return answer.IDENTITY
        except UnreachableError as error:
            desk.journal.complain(error.event, str(error))
            return answer.UNREACHABLE
        return None

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

    def _lost(self, error: LostError) -> None:
        """Log that the session broke, and forget it."""
        self._current_desk().journal.complain("downstream_lost", str(error))
        self._drop_hop()

    def _drop_hop(self) -> None:
        """Forget the session, and the transaction with it."""
        self._past_waited_s = self._downstream_waited_s
        self._hop = None
        self._mail, self._accepted = None, []

    def _passage(self, arrival: _Arrival) -> Passage:
        """Return the facts of a message for its report; its end is now."""
        duration_s = time.monotonic() - arrival.started_s
        waited_s = self._downstream_waited_s - arrival.downstream_waited_s
        return Passage(
            self._client,
            arrival.envelope,
            arrival.content.octets,
            duration_s,
            max(0.0, duration_s - waited_s - arrival.content.waited_s),
        )
