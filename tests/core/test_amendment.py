"""One form for all who still get a message: a mark is true for everybody, or is not set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.amendment import amend
from gateway.core.edition import EditionSettings
from gateway.core.policy import Action, Decision, Sight, Sighting, Verdict, examine

_SETTINGS = EditionSettings(hostname="mx.test", id_domain="mx.test")
_WITH_ID = examine(b"Message-ID: <1@example.org>\r\n")
_WITHOUT_ID = examine(b"Date: Tue, 24 Nov 2026 09:00:00 +0100\r\n")
_EARLIER = st.builds(
    Sighting,
    st.just(Sight.SEEN),
    first_seen_s=st.integers(1, 2_000_000_000),
    copies=st.integers(1, 9),
)
_SEEN = st.one_of(
    st.tuples(
        st.builds(
            Decision,
            st.just(Verdict.DUPLICATE),
            st.sampled_from([Action.TAGGED, Action.DROPPED, Action.OBSERVED]),
        ),
        _EARLIER,
    ),
    st.tuples(
        st.builds(
            Decision,
            st.just(Verdict.COLLISION),
            st.sampled_from([Action.TAGGED, Action.RELAYED, Action.OBSERVED]),
        ),
        _EARLIER,
    ),
    st.tuples(st.just(Decision(Verdict.NEW, Action.RELAYED)), st.just(Sighting(Sight.NEW))),
    st.tuples(st.just(Decision(Verdict.BYPASSED, Action.RELAYED)), st.just(Sighting(Sight.NEW))),
    st.tuples(st.just(Decision(Verdict.UNCHECKED, Action.TAGGED)), st.none()),
)
_Copies = list[tuple[Decision, Sighting | None]]


@given(st.lists(_SEEN, min_size=1, max_size=6))
def test_only_who_is_dropped_is_removed(copies: _Copies) -> None:
    """P1."""
    decisions = [decision for decision, _ in copies]
    amendment = amend(_WITH_ID, decisions, [s for _, s in copies], b"d" * 16, _SETTINGS)
    dropped = [i for i, d in enumerate(decisions) if d.action is Action.DROPPED]
    assert list(amendment.removed) == dropped
    assert [d.verdict for d in amendment.decisions] == [d.verdict for d in decisions]
    assert not any(
        decision.action is Action.DROPPED
        for i, decision in enumerate(amendment.decisions)
        if i not in dropped
    )


@given(st.lists(_SEEN, min_size=1, max_size=6))
def test_mark_is_true_for_all_who_get_it(copies: _Copies) -> None:
    """P2: what is new for one of them carries nothing of ours."""
    decisions = [decision for decision, _ in copies]
    amendment = amend(_WITH_ID, decisions, [s for _, s in copies], b"d" * 16, _SETTINGS)
    kept = [c for i, c in enumerate(copies) if i not in amendment.removed]
    marks = [field for field in amendment.fields if field.startswith(b"X-Mailonce: ")]
    agreed = {decision for decision, _ in kept}
    assert bool(marks) == (len(agreed) == 1 and next(iter(agreed)).action is Action.TAGGED)
    for text in marks:
        assert text.startswith(b"X-Mailonce: %b;" % kept[0][0].verdict.encode())
    if not marks:
        assert all(d.action is not Action.TAGGED for d in amendment.decisions)


def test_copies_and_time_are_not_exaggerated() -> None:
    decision = Decision(Verdict.DUPLICATE, Action.TAGGED)
    sightings = [Sighting(Sight.SEEN, 86_400, b"f", 5), Sighting(Sight.SEEN, 172_800, b"f", 2)]
    amendment = amend(_WITH_ID, [decision] * 2, sightings, b"d" * 16, _SETTINGS)
    assert amendment.fields == (
        b"X-Mailonce: duplicate; first-seen=1970-01-03T00:00:00Z; copies=3; by=mx.test\r\n",
    )


def test_missing_id_is_added_below_the_mark() -> None:
    decision = Decision(Verdict.DUPLICATE, Action.TAGGED)
    seen = [Sighting(Sight.SEEN, 86_400, b"f", 1)]
    amendment = amend(_WITHOUT_ID, [decision], seen, b"d" * 16, _SETTINGS)
    assert [field.partition(b":")[0] for field in amendment.fields] == [
        b"Message-ID",
        b"X-Mailonce",
    ]
    assert amendment.is_id_added


def test_nothing_is_added_for_the_bypassed_alone() -> None:
    bypassed = Decision(Verdict.BYPASSED, Action.RELAYED)
    alone = amend(_WITHOUT_ID, [bypassed], [None], b"d" * 16, _SETTINGS)
    assert alone.fields == ()
    new = Decision(Verdict.NEW, Action.RELAYED)
    both = amend(_WITHOUT_ID, [bypassed, new], [None, None], b"d" * 16, _SETTINGS)
    assert both.is_id_added
