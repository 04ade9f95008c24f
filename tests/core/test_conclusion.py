"""The end of a transaction: what the client is told, and what became of each recipient (P1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import answer
from gateway.core.conclusion import conclude, final, refusal, worst
from gateway.core.policy import Action, Decision, Verdict
from gateway.core.reply import Reply

_OK = Reply(250, b"250 2.0.0 Ok: queued as 4ABC\r\n")
_LATER = Reply(451, b"451 4.3.0 later\r\n")
_NO = Reply(554, b"554 5.7.1 no\r\n")
_NEW = Decision(Verdict.NEW, Action.RELAYED)
_TAGGED = Decision(Verdict.DUPLICATE, Action.TAGGED)
_OBSERVED = Decision(Verdict.DUPLICATE, Action.OBSERVED)
_DROPPED = Decision(Verdict.DUPLICATE, Action.DROPPED)
_WAITING = Decision(Verdict.IN_FLIGHT, Action.DEFERRED)
_HELD_UP = Decision(Verdict.NEW, Action.DEFERRED)
_UNCHECKED = Decision(Verdict.UNCHECKED, Action.DEFERRED)

ENDS = [
    # realistic
    ([_NEW], {0: _OK}, _OK, ["relayed"], "accepted: its own words"),
    ([_NEW], {0: _LATER}, _LATER, ["deferred"], "deferred: its own words"),
    ([_NEW], {0: _NO}, _NO, ["rejected"], "rejected: its own words"),
    ([_DROPPED], {}, answer.DUPLICATE, ["dropped"], "a duplicate"),
    ([_DROPPED, _NEW], {1: _OK}, _OK, ["dropped", "relayed"], "partial"),
    ([_DROPPED, _NEW], {1: _LATER}, _LATER, ["dropped", "deferred"], "partial, refused"),
    ([_NEW, _TAGGED], {0: _OK, 1: _LATER}, _LATER, ["relayed", "deferred"], "the worst"),
    ([_NEW, _OBSERVED], {0: _NO, 1: _LATER}, _NO, ["rejected", "deferred"], "the worst"),
    ([_WAITING, _HELD_UP], {}, answer.IN_FLIGHT, ["deferred", "deferred"], "in flight"),
    ([_UNCHECKED], {}, answer.UNCHECKED, ["deferred"], "list down, tempfail asked for"),
    # LMTP
    ([_NEW, _NEW], {0: _OK, 1: _OK}, _OK, ["relayed", "relayed"], "all accepted"),
    ([_NEW, _NEW], {0: _OK, 1: _LATER}, _LATER, ["relayed", "deferred"], "one is full"),
    ([_NEW, _NEW], {0: _OK, 1: _NO}, _NO, ["relayed", "rejected"], "one is refused"),
    ([_NEW, _NEW], {0: _NO, 1: _NO}, _NO, ["rejected", "rejected"], "none"),
    # what must not be
    ([_NEW], {}, answer.LOST, ["deferred"], "nothing was heard of it"),
    ([_DROPPED, _NEW], {}, answer.LOST, ["dropped", "deferred"], "nothing, and a duplicate"),
]


@pytest.mark.parametrize(
    ("decisions", "replies", "told", "actions", "reason"),
    ENDS,
    ids=[row[4] for row in ENDS],
)
def test_end(
    decisions: list[Decision],
    replies: dict[int, Reply],
    told: Reply,
    actions: list[str],
    reason: str,
) -> None:
    end = conclude(decisions, replies)
    assert end.reply == told, reason
    assert [decision.action for decision in end.decisions] == actions
    assert [d.verdict for d in end.decisions] == [d.verdict for d in decisions]


_DECISIONS = (_NEW, _TAGGED, _OBSERVED, _DROPPED)


@given(st.data(), st.lists(st.sampled_from(_DECISIONS), min_size=1, max_size=5))
def test_250_only_if_everybody_is_served(data: st.DataObject, decisions: list[Decision]) -> None:
    """P1: accepted downstream for every recipient, or a confirmed duplicate."""
    replies = {
        index: data.draw(st.sampled_from([_OK, _LATER, _NO]))
        for index, decision in enumerate(decisions)
        if decision is not _DROPPED and data.draw(st.booleans())
    }
    end = conclude(decisions, replies)
    is_served = [
        decision is _DROPPED or (reply is not None and reply.is_accepted)
        for decision, reply in zip(decisions, end.replies, strict=True)
    ]
    assert end.reply.is_accepted == all(is_served)


def test_any_deferral_is_told() -> None:
    end = conclude([_WAITING, _DROPPED, _HELD_UP], {})
    assert end.reply.status_class == 4


def test_unexpected_replies_are_replaced() -> None:
    go_on = Reply(354, b"354 go\r\n")
    assert refusal(_NO) == _NO
    assert refusal(_LATER) == _LATER
    assert refusal(_OK) == refusal(go_on) == answer.LOST
    assert final(_OK) == _OK
    assert final(_NO) == _NO
    assert final(go_on) == answer.LOST


def test_worst_is_the_first_of_its_class() -> None:
    other = Reply(451, b"451 4.4.1 other\r\n")
    assert worst([_OK, _LATER, other]) is _LATER
    assert worst([_LATER, _NO]) is _NO
