"""The state of one client's transaction with the downstream (RFC 5321 section 3.3).

Knows when an RSET is due, when content has begun, and in which commands an edition of a message is
sent. What is sent to whom is decided by `relay` and `plan`; how a session is opened, and how octets
travel, is the business of the adapter behind `ports.Downstream`.

Fails with `LostError` if the session breaks; then it is over, and the next MAIL opens another one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from gateway.core.conclusion import final, refusal, worst
from gateway.core.content import stuffed
from gateway.core.envelope import Envelope, PathArgument, normalized
from gateway.core.reply import Reply
from gateway.core.value import value
from gateway.errors import LostError
from gateway.inflow import Blocks
from gateway.ports import Downstream

_RSET = b"RSET\r\n"
_DATA = b"DATA\r\n"
_GO_AHEAD = 354


@value
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


@value
class Transaction:
    """An envelope as the downstream has accepted it.

    Attributes:
        mail: the MAIL command.
        recipients: accepted RCPT commands, each recipient once.
        seats: for each RCPT accepted downstream the index of its recipient.
    """

    mail: Command
    recipients: tuple[Command, ...]
    seats: tuple[int, ...]

    def envelope(self, client_address: str) -> Envelope:
        """Return sender and recipients as values."""
        paths = tuple([recipient.argument.path for recipient in self.recipients])
        return Envelope(self.mail.argument.path, paths, client_address)


def transaction_of(mail: Command, accepted: Sequence[Command]) -> Transaction:
    """Return the transaction; a recipient that was named twice is one recipient."""
    if len(accepted) == 1:
        return Transaction(mail, (accepted[0],), (0,))
    index_of: dict[bytes, int] = {}
    recipients: list[Command] = []
    seats = []
    for command in accepted:
        index = index_of.setdefault(normalized(command.argument.path), len(recipients))
        if index == len(recipients):
            recipients.append(command)
        seats.append(index)
    return Transaction(mail, tuple(recipients), tuple(seats))


class Hop:
    """A session with the downstream, for one client's mail alone."""

    __slots__ = ("_downstream", "_is_content_begun", "_is_reset_due")

    def __init__(self, downstream: Downstream) -> None:
        """Take over a session in which MAIL may follow."""
        self._downstream = downstream
        self._is_reset_due = False
        self._is_content_begun = False

    @property
    def waited_s(self) -> float:
        """Seconds spent waiting for the server so far."""
        return self._downstream.waited_s

    def leave_open(self) -> None:
        """Note that we are done with the open transaction: an RSET precedes the next command."""
        self._is_reset_due = True

    def ask(self, lines: Sequence[bytes]) -> Awaitable[Sequence[Reply]]:
        """Exchange commands, behind an RSET if the last transaction was left open.

        Raises:
            LostError: the session is over.
        """
        if not self._is_reset_due:
            return self._downstream.exchange(lines)
        return self._ask_behind_reset(lines)

    async def _ask_behind_reset(self, lines: Sequence[bytes]) -> Sequence[Reply]:
        self._is_reset_due = False
        return (await self._downstream.exchange([_RSET, *lines]))[1:]

    async def reset(self) -> Reply:
        """End the transaction now (RFC 5321 section 4.1.1.5).

        Raises:
            LostError: the session is over.
        """
        self._is_reset_due = False
        (reply,) = await self._downstream.exchange([_RSET])
        return reply

    async def ask_data_without_recipients(self) -> Reply:
        """Let the server say what it thinks of DATA with no recipient accepted.

        Raises:
            LostError: the session is over; also when it would have taken content from nobody to
                nobody.
        """
        (reply,) = await self.ask([_DATA])
        if reply.status_class in (4, 5):
            return reply
        await self.close(politely=False)
        raise LostError("the server accepted DATA without a recipient")

    async def send(
        self,
        transaction: Transaction,
        members: Sequence[int],
        section: bytes,
        blocks: Blocks,
        pulse: Callable[[], Awaitable[None]],
    ) -> dict[int, Reply]:
        """Pass one edition of a message on: envelope if need be, DATA, content, dot.

        Args:
            transaction: accepted by the server, and still open unless an RSET is due.
            members: indexes of the recipients of this edition.
            section: header section, dots unstuffed.
            blocks: the rest, in wire form.
            pulse: called after each block, however long the content flows, and before the dot.

        Returns:
            The last word on each member, by index.

        Raises:
            LostError: the session is over; if the dot had been sent, the outcome is unknown.
        """
        replies: dict[int, Reply] = {}
        seats: Sequence[int] = transaction.seats
        if self._is_reset_due or len(members) < len(transaction.recipients):
            self._is_reset_due = True
            seats, replies = await self._reopened(transaction, members)
            if not seats:
                return replies
        (go_ahead,) = await self._downstream.exchange([_DATA])
        if go_ahead.code != _GO_AHEAD:
            self._is_reset_due = True
            return replies | dict.fromkeys(seats, refusal(go_ahead))
        self._is_content_begun = True
        await self._downstream.write(stuffed(section))
        block = await blocks.read()
        while block:
            await self._downstream.write(block)
            block = await blocks.read()
            await pulse()
        finals = await self._downstream.finish(len(seats))
        self._is_content_begun = False
        if len(finals) == 1:
            return replies | dict.fromkeys(seats, final(finals[0]))
        return replies | _by_seat(seats, finals)

    @property
    def is_content_begun(self) -> bool:
        """Say whether the server waits for a dot."""
        return self._is_content_begun

    async def close(self, *, politely: bool) -> None:
        """End the session; in the middle of content always without a word, so that it is void."""
        await self._downstream.close(politely=politely and not self._is_content_begun)

    async def _reopened(
        self, transaction: Transaction, members: Sequence[int]
    ) -> tuple[Sequence[int], dict[int, Reply]]:
        """Begin another transaction for some of the recipients.

        Returns:
            Who was accepted, and the replies to those who were not.
        """
        commands = [transaction.mail, *(transaction.recipients[index] for index in members)]
        answers = await self.ask([command.line for command in commands])
        self._is_reset_due = True
        if not answers[0].is_accepted:
            return (), dict.fromkeys(members, refusal(answers[0]))
        by_member = dict(zip(members, answers[1:], strict=True))
        seats = [index for index, reply in by_member.items() if reply.is_accepted]
        if seats:
            self._is_reset_due = False
        return seats, {i: refusal(r) for i, r in by_member.items() if not r.is_accepted}


def _by_seat(seats: Sequence[int], finals: Sequence[Reply]) -> dict[int, Reply]:
    """Return the worst of the replies to each recipient; it may have been named twice."""
    grouped: dict[int, list[Reply]] = {}
    for index, reply in zip(seats, finals, strict=True):
        grouped.setdefault(index, []).append(final(reply))
    return {index: worst(replies) for index, replies in grouped.items()}
