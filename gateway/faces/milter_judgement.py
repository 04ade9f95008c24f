"""What becomes of a message that a milter sees: asked, decided and said at its end.

Everything is asked and answered at the end of the message. Mail servers hand a message to their
milters when all of it is there, so that nothing is won by asking earlier, and a message that is
aborted before leaves nothing behind.

The milter never learns what the mail server makes of a message afterwards. What it confirms is
provisional (see `Sighting.provisional_at_s`), unless the postmaster assumes the best.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Mapping

from gateway.account import outcomes
from gateway.candidate import Screened
from gateway.core.amendment import Amendment, amend
from gateway.core.conclusion import Conclusion, conclude
from gateway.core.fingerprint import DIGEST_OCTETS
from gateway.core.policy import Action, Decision, summary
from gateway.core.reply import Reply
from gateway.core.report import Report, entries
from gateway.core.tag import generated_id
from gateway.core.value import value
from gateway.desk import Desk
from gateway.faces import milter_wire as wire
from gateway.faces.milter_message import MOST_FORGED, Letter

_FORGED_NAME = b"X-Mailonce"
_ID_NAME = b"Message-ID"


@value
class Judgement:
    """What is to be done about a message, and what is to be remembered once that was said.

    Attributes:
        answer: packets for the mail server.
        report: for log, counters and journal.
    """

    answer: bytes
    report: Report
    _desk: Desk
    _screened: Screened
    _decisions: tuple[Decision, ...]
    _replies: tuple[Reply | None, ...]
    _fingerprint: bytes

    def settle(self, *, is_outcome_known: bool) -> Awaitable[None]:
        """Tell the journal, after the mail server was told; return what tells the tracking list."""
        self._desk.journal.record(self.report)
        return self._desk.screening.settle(
            self._screened,
            self._decisions,
            self._replies,
            self._fingerprint,
            entries(self.report, self._desk.settings.keep),
            is_outcome_known=is_outcome_known,
        )

    async def withdraw(self) -> None:
        """Give up the claims: the mail server did not wait for the answer."""
        await self._desk.screening.release(self._screened)


async def judge(desk: Desk, letter: Letter, *, has_leading_space: bool) -> Judgement:
    """Screen a message and say what is to become of it.

    Args:
        desk: to work with.
        letter: the message.
        has_leading_space: as agreed with the mail server.
    """
    screened = None
    try:
        screened = await _screened(desk, letter)
        decisions = _decided(desk, letter, screened)
        digest = _digest(letter)
        amendment = _amended(desk, letter, screened, decisions, digest)
        end = _concluded(letter, amendment, decisions)
        return Judgement(
            answer=_answer(letter, amendment, end, has_leading_space=has_leading_space),
            report=_report(desk, letter, screened, end, amendment, digest),
            _desk=desk,
            _screened=screened,
            _decisions=decisions,
            _replies=end.replies,
            _fingerprint=letter.fingerprint,
        )
    except BaseException:
        if screened is not None:
            await desk.screening.release(screened)
        raise


async def _screened(desk: Desk, letter: Letter) -> Screened:
    screening = desk.screening
    if not letter.is_checkable or _is_beyond_amendment(letter):
        return screening.unchecked(letter.examination, letter.envelope)
    screened = await screening.claim(letter.examination, letter.envelope, letter.fingerprint)
    if screened.needs_content:
        return await screening.resolve(screened, letter.fingerprint)
    return screened


def _decided(desk: Desk, letter: Letter, screened: Screened) -> tuple[Decision, ...]:
    """Decide over each recipient's copy; what must not pass as it is, and must be, is put off."""
    decisions = desk.screening.decide(screened)
    if _is_beyond_amendment(letter):
        return tuple([Decision(decision.verdict, Action.DEFERRED) for decision in decisions])
    return decisions


def _is_beyond_amendment(letter: Letter) -> bool:
    """Say whether more fields are forged than the mail server can be asked to remove."""
    return len(letter.examination.forged) > MOST_FORGED


def _digest(letter: Letter) -> bytes:
    """Return what a generated Message-ID is made of: the same for each copy, if there is a Date."""
    if letter.examination.date is not None:
        return letter.fingerprint
    return secrets.token_bytes(DIGEST_OCTETS)


def _amended(
    desk: Desk,
    letter: Letter,
    screened: Screened,
    decisions: tuple[Decision, ...],
    digest: bytes,
) -> Amendment | None:
    """Return what shall be done to the message, or None if it is deferred."""
    if Action.DEFERRED in [decision.action for decision in decisions]:
        return None
    return amend(
        letter.examination,
        decisions,
        [candidate.sighting for candidate in screened.candidates],
        digest,
        desk.settings.edition,
    )


def _concluded(
    letter: Letter, amendment: Amendment | None, decisions: tuple[Decision, ...]
) -> Conclusion:
    """Put what the mail server is expected to do in the place of a downstream's reply."""
    if amendment is None:
        return conclude(decisions, {})
    queued = b", queued as " + letter.queue_id if letter.queue_id else b""
    passed = Reply(250, b"250 2.0.0 Ok: left to the mail server%b\r\n" % queued)
    replies: Mapping[int, Reply] = {
        index: passed for index in range(len(decisions)) if index not in amendment.removed
    }
    return conclude(amendment.decisions, replies)


def _answer(
    letter: Letter, amendment: Amendment | None, end: Conclusion, *, has_leading_space: bool
) -> bytes:
    """Compose the packets that carry a judgement out."""
    if amendment is None:
        return wire.reply_code(end.reply)
    if amendment.decisions and len(amendment.removed) == len(amendment.decisions):
        return wire.DISCARD
    packets = [
        wire.delete_recipient(argument)
        for index in amendment.removed
        for argument in letter.arguments[index]
    ]
    packets += [wire.delete_field(_FORGED_NAME, n) for n in range(amendment.forged, 0, -1)]
    if amendment.is_id_added:
        # Sendmail holds one of its own ready by then, and would deliver both; Postfix has nothing
        # to remove.
        packets.append(wire.delete_field(_ID_NAME, 1))
    packets += [
        wire.insert_field(field, has_leading_space=has_leading_space) for field in amendment.fields
    ]
    return b"".join((*packets, wire.CONTINUE))


def _report(
    desk: Desk,
    letter: Letter,
    screened: Screened,
    end: Conclusion,
    amendment: Amendment | None,
    digest: bytes,
) -> Report:
    examination = letter.examination
    # Under this name `trace` finds it, and not under what identifies it in the tracking list.
    identity = examination.message_id.canonical or generated_id(
        examination, digest, desk.settings.edition.id_domain
    )
    now_s = time.monotonic()
    return Report(
        at_s=time.time(),
        client=letter.client,
        reverse_path=letter.envelope.reverse_path,
        outcomes=outcomes(screened, end),
        summary=summary(end.decisions),
        identity=identity,
        form=examination.message_id.form,
        is_id_added=amendment is not None and amendment.is_id_added,
        size_octets=letter.size_octets,
        reply=end.reply,
        duration_s=now_s - letter.started_s,
        overhead_s=now_s - letter.ended_s,
    )
