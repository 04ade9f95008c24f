"""Editions: who gets which octets; whole fields more or less, and nothing else (P2)."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.edition import Edition, EditionSettings, editions
from gateway.core.header import select
from gateway.core.message_id import Form
from gateway.core.policy import Action, Decision, Sight, Sighting, Verdict, examine
from gateway.core.tag import generated_id

_NEW = Decision(Verdict.NEW, Action.RELAYED)
_TAGGED = Decision(Verdict.DUPLICATE, Action.TAGGED)
_COLLIDED = Decision(Verdict.COLLISION, Action.TAGGED)
_UNCHECKED = Decision(Verdict.UNCHECKED, Action.TAGGED)
_OBSERVED = Decision(Verdict.DUPLICATE, Action.OBSERVED)
_DROPPED = Decision(Verdict.DUPLICATE, Action.DROPPED)
_DEFERRED = Decision(Verdict.IN_FLIGHT, Action.DEFERRED)
_BYPASSED = Decision(Verdict.BYPASSED, Action.RELAYED)
_DECISIONS = (
    _NEW, _TAGGED, _COLLIDED, _UNCHECKED, _OBSERVED, _DROPPED, _DEFERRED, _BYPASSED,
)  # fmt: skip
_SEEN = Sighting(Sight.SEEN, 1_795_453_200, b"f" * 12, 1)
_MARK = b"X-Mailonce: duplicate; first-seen=2026-11-23T17:00:00Z; copies=2; by=mx.example\r\n"
_UNCHECKED_MARK = b"X-Mailonce: unchecked; by=mx.example\r\n"
_SETTINGS = EditionSettings("mx.example", "id.example")
_REPAIRS = EditionSettings("mx.example", "id.example", repairs=True)
_ADDS_NOTHING = EditionSettings("mx.example", "id.example", adds_missing=False)
_DIGEST = bytes(16)
_WITH_ID = b"To: b\r\nMessage-ID: <a-1@b.d>\r\n"
_WITHOUT_ID = b"Date: Mon, 23 Nov 2026 17:00:00 +0100\r\nTo: b\r\n"
_ADDED = b"Message-ID: <20261123170000." + b"a" * 26 + b"@id.example>\r\n"


def edited(
    section: bytes,
    *decisions: Decision,
    settings: EditionSettings = _SETTINGS,
    digest: bytes = _DIGEST,
    is_whole: bool = True,
) -> list[tuple[bytes, tuple[int, ...], bool]]:
    sightings = [None if d.verdict is Verdict.UNCHECKED else _SEEN for d in decisions]
    examination = examine(section, is_whole=is_whole)
    made = editions(section, examination, decisions, sightings, digest, settings)
    return [(edition.section, edition.members, edition.is_id_added) for edition in made]


def test_new_goes_out_as_it_came() -> None:
    assert edited(_WITH_ID, _NEW, _NEW) == [(_WITH_ID, (0, 1), False)]


def test_observed_goes_out_as_it_came() -> None:
    assert edited(_WITH_ID, _OBSERVED) == [(_WITH_ID, (0,), False)]


def test_dropped_and_deferred_get_nothing() -> None:
    assert edited(_WITH_ID, _DROPPED, _DEFERRED) == []


def test_plain_one_goes_first() -> None:
    assert edited(_WITH_ID, _TAGGED, _NEW, _DROPPED, _TAGGED, _BYPASSED) == [
        (_WITH_ID, (1, 4), False),
        (_MARK + _WITH_ID, (0, 3), False),
    ]


def test_each_verdict_has_its_own_mark() -> None:
    made = edited(_WITH_ID, _TAGGED, _COLLIDED, _UNCHECKED)
    assert [section[: section.index(b";")] for section, _, _ in made] == [
        b"X-Mailonce: duplicate",
        b"X-Mailonce: collision",
        b"X-Mailonce: unchecked",
    ]


def test_missing_id_is_added_below_the_mark() -> None:
    assert edited(_WITHOUT_ID, _NEW, _TAGGED) == [
        (_ADDED + _WITHOUT_ID, (0,), True),
        (_MARK + _ADDED + _WITHOUT_ID, (1,), True),
    ]


def test_bypassed_get_no_id() -> None:
    assert edited(_WITHOUT_ID, _BYPASSED, _NEW) == [
        (_WITHOUT_ID, (0,), False),
        (_ADDED + _WITHOUT_ID, (1,), True),
    ]


NOT_ADDED = [
    (_WITHOUT_ID, _ADDS_NOTHING, _DIGEST, True, "switched off"),
    (_WITHOUT_ID, _SETTINGS, b"", True, "the content has not come"),
    (_WITHOUT_ID, _SETTINGS, _DIGEST, False, "one may stand behind the cut"),
    (b"Message-ID: <>\r\n" + _WITHOUT_ID, _SETTINGS, _DIGEST, True, "an empty one is there"),
    (b"DKIM-Signature: h=message-id\r\n" + _WITHOUT_ID, _SETTINGS, _DIGEST, True, "signed away"),
]


@pytest.mark.parametrize(
    ("section", "settings", "digest", "is_whole", "reason"),
    NOT_ADDED,
    ids=[r[4] for r in NOT_ADDED],
)
def test_no_id_is_added(
    section: bytes, settings: EditionSettings, digest: bytes, is_whole: bool, reason: str
) -> None:
    made = edited(section, _NEW, settings=settings, digest=digest, is_whole=is_whole)
    assert made == [(section, (0,), False)], reason


FORGED = [
    b"X-Mailonce: new\r\n",
    b"x-MAILONCE : duplicate;\r\n first-seen=now\r\n\tcopies=7\r\n",
    b"X-Mailonce:\r\n",
]


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("decision", [_NEW, _BYPASSED, _OBSERVED])
def test_forged_fields_are_removed_from_unmarked_copies(forged: bytes, decision: Decision) -> None:
    for section in (forged + _WITH_ID, _WITH_ID + forged, forged + _WITH_ID + forged):
        assert edited(section, decision) == [(_WITH_ID, (0,), False)]


@pytest.mark.parametrize("forged", FORGED)
def test_forged_fields_are_removed_from_marked_copies(forged: bytes) -> None:
    assert edited(forged + _WITH_ID, _TAGGED) == [(_MARK + _WITH_ID, (0,), False)]
    assert edited(forged + _WITH_ID, _UNCHECKED) == [(_UNCHECKED_MARK + _WITH_ID, (0,), False)]


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("settings", [_SETTINGS, _REPAIRS])
def test_forged_fields_are_removed_whether_an_id_is_added_or_repaired(
    forged: bytes, settings: EditionSettings
) -> None:
    made = edited(_WITHOUT_ID + forged, _NEW, settings=settings)
    assert made == [(_ADDED + _WITHOUT_ID, (0,), True)]


REPAIRED = [
    (b"To: b\r\nMessage-ID: a-1@B.d\r\nCc: c\r\n", b"<a-1@b.d>", "no brackets"),
    (b"To: b\r\nmessage-id : <a-1@b.d> x\r\n y\r\nCc: c\r\n", b"<a-1@b.d>", "folded junk"),
    (
        b"To: b\r\nMessage-ID: <>\r\nCc: c\r\n",
        b"<00000000000000." + b"a" * 26 + b"@id.example>",
        "empty",
    ),
]


@pytest.mark.parametrize(("section", "identity", "reason"), REPAIRED, ids=[r[2] for r in REPAIRED])
def test_repair_in_place(section: bytes, identity: bytes, reason: str) -> None:
    expected = b"To: b\r\nMessage-ID: " + identity + b"\r\nCc: c\r\n"
    forged = b"X-Mailonce: a\r\n b\r\n"
    for whole in (section, forged + section, section + forged):
        assert edited(whole, _NEW, settings=_REPAIRS) == [(expected, (0,), False)], reason
    assert edited(section, _TAGGED, settings=_REPAIRS) == [(_MARK + expected, (0,), False)]
    assert edited(section, _NEW, settings=_SETTINGS) == [(section, (0,), False)]
    assert edited(section, _NEW, _BYPASSED, settings=_REPAIRS) == [
        (expected, (0,), False),
        (section, (1,), False),
    ]


def test_signed_id_is_not_repaired() -> None:
    """P2: a valid DKIM signature stays valid."""
    section = b"DKIM-Signature: v=1; h=Message-ID:from; b=x\r\nMessage-ID: a-1@b.d\r\n"
    assert edited(section, _NEW, settings=_REPAIRS) == [(section, (0,), False)]


def test_retries_get_the_same_id_on_every_node() -> None:
    examination = examine(_WITHOUT_ID)
    identity = generated_id(examination, _DIGEST, "id.example")
    assert edited(b"Received: by x\r\n" + _WITHOUT_ID, _NEW)[0][0].startswith(
        b"Message-ID: <%b>\r\n" % identity
    )


def test_number_of_editions_is_bounded() -> None:
    """P8: each costs a transaction; recipients with histories of their own must not."""
    sightings = [Sighting(Sight.SEEN, 1_795_453_200 + i, b"f", 1000 - i) for i in range(1000)]
    made = editions(_WITH_ID, examine(_WITH_ID), [_TAGGED] * 1000, sightings, _DIGEST, _SETTINGS)
    (edition,) = made
    assert edition == Edition(
        b"X-Mailonce: duplicate; first-seen=2026-11-23T17:16:39Z; copies=2; by=mx.example\r\n"
        + _WITH_ID,
        tuple(range(1000)),
        is_id_added=False,
    )


_FIELD = st.sampled_from(
    [
        b"To: b\r\n",
        b"Message-ID: a-1@b.d\r\n",
        b"Message-ID: <>\r\n",
        b"X-Mailonce: new\r\n",
        b"x-mailonce : new;\r\n copies=1\r\n",
        b"Date: Mon, 23 Nov 2026 17:00:00 +0100\r\n",
        b"DKIM-Signature: h=message-id\r\n",
        b"From joe\r\n",
        b"From: joe\r\n",
        b"no field\r\n",
        b" blank\r\n",
    ]
)


@given(
    st.lists(_FIELD, max_size=7).map(b"".join),
    st.lists(st.sampled_from(_DECISIONS), max_size=6),
    st.sampled_from([_SETTINGS, _REPAIRS, _ADDS_NOTHING]),
    st.booleans(),
)
def test_every_recipient_gets_one_copy_with_one_mark_at_most(
    section: bytes, decisions: list[Decision], settings: EditionSettings, is_whole: bool
) -> None:
    """P1, P2: nobody is left out or served twice, no forged field is left, no second id comes."""
    made = edited(section, *decisions, settings=settings, is_whole=is_whole)
    members = sorted(index for _, group, _ in made for index in group)
    served = [
        i for i, d in enumerate(decisions) if d.action not in (Action.DROPPED, Action.DEFERRED)
    ]
    assert members == served
    ids_before = len(examine(section).message_id_fields)
    for text, group, is_id_added in made:
        found, _ = select(text, [b"x-mailonce", b"message-id"])
        is_marked = decisions[group[0]].action is Action.TAGGED
        assert len(found[b"x-mailonce"]) == is_marked
        assert len(found[b"message-id"]) == ids_before + is_id_added
        assert not (is_id_added and ids_before)
        for line in (b"To: b\r\n", b"no field\r\n", b"From: joe\r\n"):
            assert text.count(line) == section.count(line)


def test_every_form_of_id_survives_every_decision() -> None:
    """P2: an existing Message-ID is never changed by default."""
    fields = {
        Form.VALID: b"Message-ID: <a-1@b.d>\r\n",
        Form.MALFORMED: b"Message-ID: a-1@b.d (x)\r\n",
        Form.WEAK: b"message-id:<a>\r\n",
        Form.MULTIPLE: b"Message-ID: <a-1@b.d>\r\nMessage-ID: <a-2@b.d>\r\n",
        Form.MISSING: b"Message-ID:\r\n <>\r\n",
    }
    for (form, field), decision in product(fields.items(), (_NEW, _TAGGED, _BYPASSED)):
        assert examine(field).message_id.form is form
        ((section, _, _),) = edited(field, decision)
        assert section.endswith(field)
