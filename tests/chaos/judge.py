"""The judge: what the recordings of both sides say about the gateway in between.

Nothing that the gateway says of itself is believed, except a mark on a message: ``unchecked`` says
that the list could not be asked. A second copy at the mail server must have a reason for every
copy before it: why the list did not know of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from gateway.edge.breaker import PERIOD_S
from tests.chaos.ledger import Delivery, Effect, Interval, Ledger
from tests.chaos.post import Kind

AFTER_THE_DOT = "connection lost after the dot: outcome unknown"
UNAVAILABLE = "list unavailable at the claim"
DIED = "killed after the 2xx, before the confirmation"
UNCONFIRMED = "confirmation failed after the 2xx"
FORGOTTEN = "list lost its data"
OVERTAKEN = "stopped for longer than its claim held"
NAMELESS = "neither Message-ID nor Date: never a duplicate"
CAUSES = (AFTER_THE_DOT, UNAVAILABLE, DIED, UNCONFIRMED, FORGOTTEN, OVERTAKEN, NAMELESS)

# From a 2xx to the end of the confirmation it takes a millisecond; on a busy machine more.
_SETTLED_S = 1.0
# A failure is felt for as long as the circuit breaker is open.
_ECHO_S = PERIOD_S + 1.0
_BEAT_S = 11.0
_NEAR_S = 0.5


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came out.

    Attributes:
        promised: pairs of message and recipient for which a client was told 2xx.
        delivered: pairs that the mail server has.
        lost: promised, and not there; or promised before it was there.
        altered: not the octets that were sent.
        extras: copies beyond the first, by cause.
        unexplained: those without one.
    """

    promised: int
    delivered: int
    lost: tuple[str, ...]
    altered: tuple[str, ...]
    extras: Counter[str]
    unexplained: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Say whether nothing was lost, altered, or delivered again without a reason."""
        return not (self.lost or self.altered or self.unexplained)


def judge(ledger: Ledger) -> Judgement:
    """Look through all recordings."""
    lost = []
    for (number, recipient), promised_s in sorted(ledger.promised.items()):
        copies = ledger.deliveries.get((number, recipient))
        if not copies:
            lost.append(f"message {number} for {recipient}")
        elif copies[0].accepted_s > promised_s:
            lost.append(f"message {number} for {recipient}: promised before it was accepted")
    extras: Counter[str] = Counter()
    unexplained = []
    for copies in ledger.deliveries.values():
        for index in range(1, len(copies)):
            cause = _cause(ledger, copies[:index], copies[index])
            if cause:
                extras[cause] += 1
            else:
                unexplained.append(_described(ledger, copies[: index + 1]))
    return Judgement(
        len(ledger.promised),
        len(ledger.deliveries),
        tuple(lost),
        tuple(ledger.altered),
        extras,
        tuple(unexplained),
    )


def _cause(ledger: Ledger, earlier: list[Delivery], copy: Delivery) -> str:
    """Return why the list knew of none of the earlier copies, or "" if it should have."""
    if ledger.posts[copy.number].kind is Kind.NO_IDENTITY:
        return NAMELESS
    causes = [_reason(ledger, one, copy) for one in earlier]
    return "" if "" in causes else causes[-1]


def _reason(ledger: Ledger, first: Delivery, copy: Delivery) -> str:
    """Return why the list did not know of one copy when another one came, or ""."""
    if not first.replied_s or (first.attempt is not None and first.attempt.is_told_lost):
        return AFTER_THE_DOT
    if copy.mark == "unchecked" or _is_overwritten(ledger, first, copy):
        return UNAVAILABLE
    remembered_s = ledger.remembered.get(first.queue_id)
    if remembered_s is None:
        return _why_untold(ledger, first)
    if any(lost.meets(remembered_s, remembered_s) for lost in _of(ledger, Effect.LIST_LOST)):
        return FORGOTTEN
    if _meets(ledger, Effect.LIST_AWAY, remembered_s - _NEAR_S, remembered_s + _NEAR_S):
        return UNCONFIRMED
    is_later = copy.attempt is not None and copy.attempt.began_s > remembered_s
    return "" if is_later else _why_unclaimed(ledger, first, copy)


def _why_untold(ledger: Ledger, first: Delivery) -> str:
    """Return why nobody told the list that a copy was accepted, or ""."""
    settled_s = _settled(ledger, first)
    has_died = _meets(ledger, Effect.DIED, first.accepted_s, settled_s)
    if has_died and first.attempt is not None and not first.attempt.code:
        return DIED
    faults = (Effect.LIST_AWAY, Effect.PAUSED)
    if any(_meets(ledger, e, first.accepted_s - _ECHO_S, settled_s) for e in faults):
        return UNCONFIRMED
    return DIED if has_died else ""


def _why_unclaimed(ledger: Ledger, first: Delivery, copy: Delivery) -> str:
    """Return why the claim of a copy did not stand while another one was under way, or ""."""
    began_s = first.attempt.began_s if first.attempt is not None else first.accepted_s
    if first.mark == "unchecked":
        return UNAVAILABLE
    if any(began_s - _BEAT_S <= i.to_s <= copy.accepted_s for i in _of(ledger, Effect.LIST_LOST)):
        return FORGOTTEN
    if _meets(ledger, Effect.DIED, began_s, copy.accepted_s):
        return DIED
    return OVERTAKEN if _meets(ledger, Effect.PAUSED, began_s, copy.accepted_s) else ""


def _settled(ledger: Ledger, copy: Delivery) -> float:
    """Return until when the confirmation of a copy may have been under way."""
    settled_s = max(copy.accepted_s, copy.replied_s) + _SETTLED_S
    for pause in _of(ledger, Effect.PAUSED):
        if pause.meets(copy.accepted_s, settled_s):
            settled_s = max(settled_s, pause.to_s + _SETTLED_S)
    return settled_s


def _is_overwritten(ledger: Ledger, first: Delivery, copy: Delivery) -> bool:
    """Say whether an unchecked message with the same id took the place of the first's record."""
    family = ledger.posts[first.number].family
    if ledger.posts[first.number].kind is not Kind.SHARED_ID:
        return False
    for number in range(family, len(ledger.posts)):
        if ledger.posts[number].family != family:
            return False
        for other in ledger.deliveries.get((number, first.recipient), ()):
            if other.mark == "unchecked" and other.accepted_s <= copy.accepted_s:
                return True
    return False


def _of(ledger: Ledger, effect: Effect) -> list[Interval]:
    return [interval for interval in ledger.intervals if interval.effect is effect]


def _meets(ledger: Ledger, effect: Effect, from_s: float, to_s: float) -> bool:
    return any(interval.meets(from_s, to_s) for interval in _of(ledger, effect))


def _described(ledger: Ledger, copies: list[Delivery]) -> str:
    """Return all that is known of copies, for whoever looks into it."""
    post = ledger.posts[copies[0].number]
    lines = [f"message {post.number} ({post.kind.value}) for {copies[0].recipient}:"]
    zero_s = copies[0].accepted_s
    for copy in copies:
        lines.append(
            f"  {copy.queue_id} accepted at {copy.accepted_s - zero_s:.3f} s,"
            f" replied {copy.replied_s - zero_s:.3f}, mark {copy.mark!r},"
            f" remembered {ledger.remembered.get(copy.queue_id, 0.0) - zero_s:.3f}"
        )
        if (attempt := copy.attempt) is not None:
            lines.append(
                f"    tried from {attempt.began_s - zero_s:.3f} to {attempt.ended_s - zero_s:.3f}"
                f" (message {attempt.number}): {attempt.code} {attempt.text}"
            )
    span = copies[0].accepted_s - 10.0, copies[-1].accepted_s + 1.0
    lines += [
        f"  {interval.effect.value}: {interval.from_s - zero_s:.3f} to {interval.to_s - zero_s:.3f}"
        for interval in ledger.intervals
        if interval.meets(*span)
    ]
    return "\n".join(lines)
