"""Examine, decide, settle: what a message says, what is done, what is remembered (P1, P6)."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.message_id import Form
from gateway.core.policy import (
    IN_FLIGHT,
    NEW,
    Action,
    Decision,
    Settlement,
    Sight,
    Sighting,
    Verdict,
    decide,
    examine,
    identity_of,
    settle,
    summary,
)
from gateway.core.rule import Collisions, Match, Mode, Policy
from gateway.core.tag import lacks_id, repaired_id
from gateway.core.unique_id import Identity

_SEEN = Sighting(Sight.SEEN, 1_700_000_000, b"f" * 12, 1)
_PROVISIONAL = Sighting(Sight.SEEN, 1_700_000_000, b"f" * 12, 1, provisional_at_s=1_700_000_000)
_AWAITED = Sighting(Sight.SEEN, 1_700_000_000, b"f" * 12, 1, is_retry_due=True)
_SIGHTINGS = (None, NEW, IN_FLIGHT, _SEEN, _PROVISIONAL, _AWAITED)
_POLICIES = tuple(Policy(*parts) for parts in product(Mode, Match, Collisions))


def decided(  # the whole table, one row a call
    *,
    mode: Mode = Mode.TAG,
    match: Match = Match.CONTENT,
    collisions: Collisions = Collisions.TAG,
    form: Form = Form.VALID,
    sighting: Sighting | None = _SEEN,
    same: bool = True,
    young: bool = False,
) -> tuple[str, str]:
    policy = Policy(mode, match, collisions)
    decision = decide(policy, form, sighting, is_same_content=same, is_young=young)
    return decision.verdict, decision.action


@pytest.mark.parametrize("policy", _POLICIES)
@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("sighting", _SIGHTINGS)
def test_only_a_confirmed_sighting_of_equal_content_costs_a_copy(
    policy: Policy, form: Form, sighting: Sighting | None
) -> None:
    """P1, P6: the rule that everything else serves, over all there is to decide."""
    for is_same_content, is_young in product((False, True), repeat=2):
        decision = decide(
            policy, form, sighting, is_same_content=is_same_content, is_young=is_young
        )
        is_confirmed = sighting in (_SEEN, _PROVISIONAL, _AWAITED)
        is_asked_for = sighting is _AWAITED and is_same_content and policy.mode is Mode.TAG
        is_known_content = is_same_content or policy.match is Match.MESSAGE_ID
        if decision.action is Action.DROPPED:
            assert decision.verdict is Verdict.DUPLICATE
            assert is_confirmed
            assert is_known_content
            assert policy.mode is Mode.DROP or is_asked_for
            assert not (sighting is _PROVISIONAL and is_young)
            assert is_same_content or form in (Form.VALID, Form.MALFORMED)
        # Whatever the client was told, a trial or an exemption costs nobody a copy.
        if policy.mode in (Mode.OBSERVE, Mode.BYPASS):
            assert decision.action is not Action.DROPPED
        # Who is deferred gets nothing now, but the client keeps the message.
        assert (decision.action is Action.DEFERRED) == (decision.verdict is Verdict.IN_FLIGHT)
        if not is_confirmed:
            assert decision.verdict not in (Verdict.DUPLICATE, Verdict.COLLISION)


DECISIONS = [
    # realistic
    (decided(sighting=NEW), ("new", "relayed"), "first copy"),
    (decided(), ("duplicate", "tagged"), "the default"),
    (decided(mode=Mode.DROP), ("duplicate", "dropped"), "as asked for"),
    (decided(mode=Mode.OBSERVE), ("duplicate", "observed"), "a trial"),
    (decided(mode=Mode.BYPASS), ("bypassed", "relayed"), "left alone"),
    (decided(sighting=IN_FLIGHT), ("in_flight", "deferred"), "another copy is on its way"),
    (decided(sighting=None), ("unchecked", "tagged"), "list down"),
    (decided(sighting=None, mode=Mode.DROP), ("unchecked", "tagged"), "list down, never dropped"),
    (decided(sighting=None, mode=Mode.OBSERVE), ("unchecked", "observed"), "list down, a trial"),
    (decided(sighting=None, mode=Mode.BYPASS), ("bypassed", "relayed"), "list down, left alone"),
    (decided(same=False), ("collision", "tagged"), "another content"),
    (decided(same=False, mode=Mode.DROP), ("collision", "tagged"), "another content is kept"),
    (decided(same=False, mode=Mode.OBSERVE), ("collision", "observed"), "another content, a trial"),
    (
        decided(same=False, collisions=Collisions.RELAY),
        ("collision", "relayed"),
        "another content, plain",
    ),
    (
        decided(same=False, collisions=Collisions.RELAY, mode=Mode.OBSERVE),
        ("collision", "relayed"),
        "nothing would have been done",
    ),
    # the id alone, where the postmaster asked for it
    (
        decided(same=False, match=Match.MESSAGE_ID, mode=Mode.DROP),
        ("duplicate", "dropped"),
        "the id alone counts",
    ),
    (
        decided(same=False, match=Match.MESSAGE_ID, mode=Mode.DROP, form=Form.WEAK),
        ("duplicate", "tagged"),
        "a weak id: at most tagged",
    ),
    (
        decided(same=True, match=Match.MESSAGE_ID, mode=Mode.DROP, form=Form.MULTIPLE),
        ("duplicate", "tagged"),
        "several ids: at most tagged",
    ),
    (
        decided(same=False, match=Match.MESSAGE_ID, mode=Mode.DROP, form=Form.MISSING),
        ("collision", "tagged"),
        "without an id there is none to match",
    ),
    (decided(form=Form.WEAK, mode=Mode.DROP), ("duplicate", "dropped"), "weak, content agrees"),
    (decided(form=Form.MULTIPLE, mode=Mode.DROP), ("duplicate", "dropped"), "several, it agrees"),
    # the milter
    (
        decided(sighting=_PROVISIONAL, mode=Mode.DROP, young=True),
        ("duplicate", "tagged"),
        "the first copy may have been refused",
    ),
    (
        decided(sighting=_PROVISIONAL, mode=Mode.DROP, young=False),
        ("duplicate", "dropped"),
        "by now it was accepted or came again",
    ),
    (decided(mode=Mode.DROP, young=True), ("duplicate", "dropped"), "known to be accepted"),
    # a retry that we asked for, though this recipient has got its copy
    (
        decided(sighting=_AWAITED),
        ("duplicate", "dropped"),
        "it had its copy, the retry is another's",
    ),
    (
        decided(sighting=_AWAITED, match=Match.MESSAGE_ID, form=Form.WEAK),
        ("duplicate", "dropped"),
        "the content agrees, whatever the id is worth",
    ),
    (decided(sighting=_AWAITED, same=False), ("collision", "tagged"), "no retry of that content"),
    (
        decided(sighting=_AWAITED, same=False, match=Match.MESSAGE_ID),
        ("duplicate", "tagged"),
        "the id alone is no retry",
    ),
    (decided(sighting=_AWAITED, mode=Mode.OBSERVE), ("duplicate", "observed"), "a trial"),
    (
        decided(sighting=_AWAITED, mode=Mode.BYPASS),
        ("bypassed", "relayed"),
        "left alone, retry or not",
    ),
    (
        decided(sighting=_PROVISIONAL, mode=Mode.OBSERVE, young=True),
        ("duplicate", "observed"),
        "a trial does not tag",
    ),
]


@pytest.mark.parametrize(("actual", "expected", "reason"), DECISIONS, ids=[r[2] for r in DECISIONS])
def test_decision(actual: tuple[str, str], expected: tuple[str, str], reason: str) -> None:
    assert actual == expected, reason


_CONFIRMED, _RELEASED, _UNTOLD = (
    Settlement(is_confirmed=True),
    Settlement(is_released=True),
    Settlement(),
)
SETTLEMENTS = [
    # realistic
    (Verdict.NEW, Action.RELAYED, True, _CONFIRMED, "accepted"),
    (Verdict.NEW, Action.RELAYED, False, _RELEASED, "refused: a retry is welcome"),
    (Verdict.NEW, Action.DEFERRED, False, _RELEASED, "deferred for another recipient's sake"),
    (Verdict.DUPLICATE, Action.TAGGED, True, _CONFIRMED, "one copy more"),
    (Verdict.DUPLICATE, Action.TAGGED, False, _UNTOLD, "the record stays"),
    (Verdict.DUPLICATE, Action.DROPPED, False, _CONFIRMED, "dropped: one copy more"),
    (Verdict.DUPLICATE, Action.DEFERRED, False, _UNTOLD, "deferred: the record stays"),
    (Verdict.COLLISION, Action.TAGGED, True, _CONFIRMED, "its own retry is a duplicate"),
    (Verdict.COLLISION, Action.RELAYED, False, _RELEASED, "its own claim ends"),
    (Verdict.UNCHECKED, Action.TAGGED, True, _CONFIRMED, "true, and clears a claim"),
    (Verdict.UNCHECKED, Action.TAGGED, False, _RELEASED, "the claim may have been made"),
    (Verdict.IN_FLIGHT, Action.DEFERRED, False, _UNTOLD, "the claim is another's"),
    (Verdict.BYPASSED, Action.RELAYED, True, _UNTOLD, "never tracked"),
    (Verdict.BYPASSED, Action.RELAYED, False, _UNTOLD, "never tracked, refused"),
]


@pytest.mark.parametrize(
    ("verdict", "action", "is_accepted", "expected", "reason"),
    SETTLEMENTS,
    ids=[row[4] for row in SETTLEMENTS],
)
def test_settlement(
    verdict: Verdict, action: Action, is_accepted: bool, expected: Settlement, reason: str
) -> None:
    assert settle(Decision(verdict, action), is_accepted=is_accepted) == expected, reason


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("action", Action)
def test_nothing_unaccepted_is_ever_confirmed(verdict: Verdict, action: Action) -> None:
    """P1: but for a dropped copy, whose content was accepted before."""
    settlement = settle(Decision(verdict, action), is_accepted=False)
    assert not settlement.is_confirmed or action is Action.DROPPED
    assert not (settlement.is_confirmed and settlement.is_released)


_DROPPED = Decision(Verdict.DUPLICATE, Action.DROPPED)
_TAGGED = Decision(Verdict.DUPLICATE, Action.TAGGED)
_RELAYED = Decision(Verdict.NEW, Action.RELAYED)


@pytest.mark.parametrize(
    ("decisions", "expected", "reason"),
    [
        ([_RELAYED], _RELAYED, "one"),
        ([_RELAYED, _RELAYED], _RELAYED, "all alike"),
        ([_DROPPED, _RELAYED], Decision(Verdict.PARTIAL, Action.RELAYED), "one got it"),
        ([_DROPPED, _TAGGED], Decision(Verdict.DUPLICATE, Action.TAGGED), "one got it tagged"),
        (
            [_RELAYED, Decision(Verdict.NEW, Action.REJECTED)],
            Decision(Verdict.NEW, Action.REJECTED),
            "the client was told so",
        ),
        (
            [Decision(Verdict.NEW, Action.DEFERRED), Decision(Verdict.NEW, Action.REJECTED)],
            Decision(Verdict.NEW, Action.REJECTED),
            "the client was told the worst, and will not come again",
        ),
    ],
)
def test_summary(decisions: list[Decision], expected: Decision, reason: str) -> None:
    assert summary(decisions) == expected, reason


def test_examination_of_an_ordinary_header() -> None:
    section = (
        b"Received: by a\r\nReceived: by b;\r\n\tMon\r\n"
        b"X-Mailonce: duplicate;\r\n copies=9\r\n"
        b"From: Joe\r\n\t<joe@example.org>\r\nSubject: a\r\n b\r\n"
        b"Date: Mon, 23 Nov 2026 17:00:00 +0100\r\nMessage-ID: <a-1@B.example>\r\n"
    )
    seen = examine(section)
    assert seen.message_id.canonical == b"a-1@b.example"
    assert [field.body for field in seen.message_id_fields] == [b" <a-1@B.example>\r"]
    assert seen.date == b"Mon, 23 Nov 2026 17:00:00 +0100"
    assert seen.identifying == ((b"Joe <joe@example.org>",), (seen.date,), (b"a b",))
    assert seen.hops == 2
    assert [section[f.start : f.end] for f in seen.forged] == [
        b"X-Mailonce: duplicate;\r\n copies=9\r\n"
    ]
    assert (seen.list_id, seen.resent, seen.stray) == (b"", b"", b"")
    assert not seen.is_id_signed
    assert not seen.is_identity_derived
    assert seen.is_whole


def test_examination_of_nothing() -> None:
    seen = examine(b"")
    assert seen.is_identity_derived
    assert seen.date is None
    assert seen.identifying == ((), (), ())


@given(st.binary(max_size=200), st.booleans())
def test_any_octets_can_be_examined(section: bytes, is_whole: bool) -> None:
    seen = examine(section, is_whole=is_whole)
    assert section.endswith(seen.stray)
    assert seen.is_id_signed in (True, False)


def test_empty_date_is_none() -> None:
    assert examine(b"Date: \r\n \r\n").date is None


def test_text_below_the_fields_is_stray() -> None:
    assert examine(b"To: a\r\nHello\r\nMessage-ID: <a-1@b>\r\n").stray.startswith(b"Hello")
    assert examine(b"Hello\r\nMessage-ID: <a-1@b>\r\n").is_identity_derived


IDS_BELOW = [
    (b"To: a\r\nHello\r\nMessage-ID: <a-1@b.de>\r\n", b"a-1@b.de", "below a line that is no field"),
    (b"To: a\nHello\nmessage-id :\n <a-1@b.de>\n", b"a-1@b.de", "folded, with LF"),
    (b"To: a\r\nMessage-ID: <>\r\nx\r\nMessage-ID: <a-1@b.de>\r\n", b"a-1@b.de", "above: empty"),
    (b"Message-ID: <a-2@b.de>\r\nx\r\nMessage-ID: <a-1@b.de>\r\n", b"a-2@b.de", "above: another"),
    (b"To: a\r\nx Message-ID: <a-1@b.de>\r\n", None, "not at the start of a line"),
    (b"From a\r\nx\r\nMessage-ID: <a-1@b.de>\r\n", None, "no field above"),
]


@pytest.mark.parametrize(
    ("section", "canonical", "reason"), IDS_BELOW, ids=[r[2] for r in IDS_BELOW]
)
def test_id_below_a_stray_line(section: bytes, canonical: bytes | None, reason: str) -> None:
    """Only an empty line ends the search; but alone it is never enough to drop a message (P1)."""
    seen = examine(section)
    assert seen.message_id.canonical == canonical, reason
    if not seen.message_id_fields or canonical == b"a-1@b.de":
        assert seen.message_id.form in (Form.WEAK, Form.MISSING)
    assert seen.stray
    if canonical is not None:
        assert not lacks_id(seen)
        assert repaired_id(seen, b"g") is None


SIGNATURES = [
    # realistic
    (b"DKIM-Signature: v=1; h=from:message-id:to; b=x\r\n", True, "named"),
    (b"DKIM-Signature: v=1; h=From : Message-ID : To; b=x\r\n", True, "any case, blanks"),
    (b"DKIM-Signature: v=1;\r\n h=from:message-\r\n id:to; b=x\r\n", True, "folded within a name"),
    (b"DKIM-Signature: h=message-id\r\n", True, "first tag, and last"),
    (b"DKIM-Signature: v=1; h = message-id ; b=x\r\n", True, "blanks around the equals sign"),
    (b"ARC-Message-Signature: i=1; h=message-id:to; b=x\r\n", True, "ARC"),
    (b"DKIM-Signature: h=to\r\nDKIM-Signature: h=message-id\r\n", True, "the second signature"),
    (b"DKIM-Signature: v=1; h=from:to; b=x\r\n", False, "not named"),
    (b"DKIM-Signature: v=1; b=x\r\n", False, "no list"),
    # synthetic
    (b"DKIM-Signature: v=1; bh=message-id; h=to\r\n", False, "another tag"),
    (b"DKIM-Signature: v=1; h=x-message-id:to; b=x\r\n", False, "another name"),
    (b"ARC-Seal: i=1; h=message-id\r\n", False, "RFC 8617 section 4.1.3: a seal covers no fields"),
    (b"X-DKIM-Signature: h=message-id\r\n", False, "no signature"),
]


@pytest.mark.parametrize(
    ("section", "expected", "reason"), SIGNATURES, ids=[r[2] for r in SIGNATURES]
)
def test_signed_message_id(section: bytes, expected: bool, reason: str) -> None:
    assert examine(section).is_id_signed is expected, reason


_PLAIN = b"Message-ID: <a-1@b.d>\r\nDate: Mon\r\n"
VARIANTS = [
    # realistic
    (b"List-Id: <l.example.org>\r\n", "a list copy"),
    (b"List-Id: <m.example.org>\r\n", "another list's copy"),
    (b"Resent-From: a@b\r\nResent-Date: Mon\r\n", "a resending without id"),
    (b"Resent-From: a@b\r\nResent-Date: Tue\r\n", "resent again"),
    (b"Resent-From: c@b\r\nResent-Date: Tue\r\n", "resent by another"),
    (b"Resent-Message-ID: <r-1@b.d>\r\n", "a resending with an id"),
    (b"Resent-Message-ID: <r-1@b.d>\r\nResent-From: a@b\r\n", "with an id and a name"),
    (b"List-Id: <l.example.org>\r\nResent-From: a@b\r\n", "a list copy, resent"),
]


def test_list_copies_and_resendings_are_apart() -> None:
    identities = [
        identity_of(examine(extra + _PLAIN), None, lists_distinct=True)
        for extra in (b"", *(row[0] for row in VARIANTS))
    ]
    assert len(set(identities)) == len(identities)


def test_latest_resending_stands_on_top() -> None:
    """RFC 5322 section 3.6.6: blocks are prepended; the older one must not hide the newer."""
    older = b"Resent-Message-ID: <r-1@b.d>\r\nResent-From: a@b\r\nResent-Date: Mon\r\n"
    newer = b"Resent-From: a@b\r\nResent-Date: Tue\r\n"
    assert examine(newer + older).resent != examine(older).resent


def test_a_resent_date_alone_is_no_resending() -> None:
    assert examine(b"Resent-Date: Mon\r\n").resent == b""


def test_folding_does_not_change_a_variant() -> None:
    one = b"List-Id: a\r\n <l.example.org>\r\nResent-From: a\r\n\t<a@b>\r\n"
    other = b"List-Id: a <l.example.org>\r\nResent-From: a <a@b>\r\n"
    assert examine(one).list_id == examine(other).list_id
    assert examine(one).resent == examine(other).resent


LIST_IDS = [
    # realistic
    (b"<l.example.org>", "brackets alone"),
    (b"The list <l.example.org>", "with a name"),
    (b'"Renamed <again>" <l.example.org>', "with another name, and brackets in it"),
    (b"<L.Example.ORG>", "RFC 2919 section 6: compared without case"),
    (b"The list\r\n\t<l.example.org>", "folded"),
    # seen in practice
    (b"l.example.org", "no brackets"),
    (b"< l.example.org > (a comment)", "blanks within, a comment behind"),
]


@pytest.mark.parametrize(("body", "reason"), LIST_IDS, ids=[row[1] for row in LIST_IDS])
def test_a_list_is_known_by_its_identifier(body: bytes, reason: str) -> None:
    """RFC 2919 section 3: the name before the brackets is for people."""
    assert examine(b"List-Id: %b\r\n" % body).list_id == b"l.example.org", reason


def test_a_list_without_an_identifier_has_its_name() -> None:
    assert examine(b"List-Id: News <>\r\n").list_id == b"news <>"


def test_list_copies_may_count_as_the_same() -> None:
    listed = identity_of(examine(VARIANTS[0][0] + _PLAIN), None, lists_distinct=False)
    assert listed == Identity(b"id", b"a-1@b.d")


def test_without_an_id_the_content_is_the_identity() -> None:
    dated = examine(b"Date: Mon\r\nList-Id: <l>\r\n")
    assert identity_of(dated, None, lists_distinct=True) is None
    assert identity_of(dated, b"f" * 16, lists_distinct=True) == Identity(
        b"derived", b"f" * 16, b"l"
    )


def test_without_id_and_date_nothing_is_ever_a_duplicate() -> None:
    """P1: two reports with the same text are two messages."""
    assert identity_of(examine(b"From: a\r\n"), b"f" * 16, lists_distinct=True) is None


def test_a_field_of_ours_at_the_cut_is_forged_as_well() -> None:
    """What goes on behind the cut is for `core.forgery`."""
    section = b"X-Mailonce: a\r\nTo: b\r\nX-Mailonce: c\r\n"
    cut = examine(section, is_whole=False)
    assert cut.forged == examine(section).forged
    assert [field.start for field in cut.forged] == [0, 22]
    assert not cut.is_whole
