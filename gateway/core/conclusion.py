"""The end of a transaction: the downstream's replies become one reply and one action per recipient.

SMTP has one reply for all recipients (RFC 5321 section 4.2.5), LMTP one for each (RFC 2033 section
4.2). Where recipients fared differently, the client is told the worst, so that nobody's copy is
taken for delivered; what was accepted stays confirmed, and a retry finds it so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core import answer
from gateway.core.policy import Action, Decision, Verdict
from gateway.core.reply import Reply
from gateway.core.value import value

_RELAYING = (Action.RELAYED, Action.TAGGED, Action.OBSERVED)


@value
class Conclusion:
    """The end of one transaction.

    Attributes:
        reply: what the client is told.
        decisions: one per recipient; what was not accepted is `REJECTED` or `DEFERRED` now.
        replies: one per recipient, None where the downstream was not asked.
    """

    reply: Reply
    decisions: tuple[Decision, ...]
    replies: tuple[Reply | None, ...]


def conclude(decisions: Sequence[Decision], replies: Mapping[int, Reply]) -> Conclusion:
    """Turn the downstream's replies into one for the client, and an end for each recipient.

    Args:
        decisions: one per recipient, as the policy had it.
        replies: the downstream's last word, by index of the recipient; none for the dropped.
    """
    # A copy that should have been relayed and of which nothing was heard counts as lost.
    by_recipient = tuple(
        [
            replies.get(index, answer.LOST if decision.action in _RELAYING else None)
            for index, decision in enumerate(decisions)
        ]
    )
    ended = tuple(
        [_ended(decision, reply) for decision, reply in zip(decisions, by_recipient, strict=True)]
    )
    said = [reply for reply in by_recipient if reply is not None]
    told = _told(decisions, said)
    return Conclusion(told, ended, by_recipient)


def refusal(said: Reply) -> Reply:
    """Return a reply that refuses; a server that says something else here makes no sense.

    SMTPD_PROXY_README: an unexpected 2xx or 3xx is replaced by a generic error.
    """
    return said if said.status_class in (4, 5) else answer.LOST


def final(said: Reply) -> Reply:
    """Return a reply that may end content: 2yz, 4yz or 5yz."""
    return said if said.status_class != 3 else answer.LOST


def worst(replies: Sequence[Reply]) -> Reply:
    """Return the first of the replies with the highest class."""
    return max(replies, key=lambda reply: reply.status_class)


def _told(decisions: Sequence[Decision], said: Sequence[Reply]) -> Reply:
    if Action.DEFERRED in [decision.action for decision in decisions]:
        is_in_flight = any(decision.verdict is Verdict.IN_FLIGHT for decision in decisions)
        return answer.IN_FLIGHT if is_in_flight else answer.UNCHECKED
    if not said:
        return answer.DUPLICATE
    return worst(said)


def _ended(decision: Decision, reply: Reply | None) -> Decision:
    if decision.action not in _RELAYING or reply is None or reply.is_accepted:
        return decision
    refused = Action.REJECTED if reply.status_class == 5 else Action.DEFERRED
    return Decision(decision.verdict, refused)
