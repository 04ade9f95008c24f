"""Our two fields: what they say, and that nobody else can say it for us."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.message_id import Form, is_valid, message_id_of
from gateway.core.policy import Action, Decision, Sight, Sighting, Verdict, examine
from gateway.core.tag import (
    ALLOWANCE_OCTETS,
    generated_id,
    lacks_id,
    mark,
    message_id_field,
    modest,
    repaired_id,
)

_SEEN = Sighting(Sight.SEEN, 1_795_453_200, b"f" * 12, 1)
_DIGEST = bytes(range(16))


@pytest.mark.parametrize(
    ("verdict", "action", "sighting", "expected", "reason"),
    [
        (
            Verdict.DUPLICATE,
            Action.TAGGED,
            _SEEN,
            b"duplicate; first-seen=2026-11-23T17:00:00Z; copies=2; by=mx.example.org",
            "the first copy and this one",
        ),
        (
            Verdict.COLLISION,
            Action.TAGGED,
            _SEEN,
            b"collision; first-seen=2026-11-23T17:00:00Z; copies=1; by=mx.example.org",
            "of this content it is the first",
        ),
        (Verdict.UNCHECKED, Action.TAGGED, None, b"unchecked; by=mx.example.org", "list down"),
        (Verdict.UNCHECKED, Action.TAGGED, _SEEN, b"unchecked; by=mx.example.org", "down later"),
    ],
)
def test_mark(
    verdict: Verdict, action: Action, sighting: Sighting | None, expected: bytes, reason: str
) -> None:
    field = mark(Decision(verdict, action), sighting, hostname="mx.example.org")
    assert field == b"X-Mailonce: " + expected + b"\r\n", reason


@pytest.mark.parametrize("action", [action for action in Action if action is not Action.TAGGED])
def test_only_tagged_copies_are_marked(action: Action) -> None:
    assert mark(Decision(Verdict.DUPLICATE, action), _SEEN, hostname="mx") == b""


def test_modest_sighting_is_true_for_everybody() -> None:
    older = Sighting(Sight.SEEN, 100, b"f", 5)
    newer = Sighting(Sight.SEEN, 200, b"f", 7)
    assert modest([older, newer]) == Sighting(Sight.SEEN, 200, b"f", 5)
    assert modest([older]) == older
    assert modest([older, None]) is None


STAMPS = [
    # realistic
    (
        b"Mon, 23 Nov 2026 17:00:09 +0100",
        b"20261123170009",
        "the sender's digits, whatever the zone",
    ),
    (b"Mon, 23 Nov 2026 17:00:09 -0800", b"20261123170009", "the same digits in another zone"),
    (b"3 Jan 2026 07:05:09 GMT", b"20260103070509", "one digit, an obsolete zone, no day"),
    (b"Mon, 23 Nov 2026 17:00 +0100", b"20261123170000", "RFC 5322 section 3.3: no seconds"),
    (b"Mon, 23 Nov 98 17:00:09 EST", b"19981123170009", "RFC 5322 section 4.3: two digits"),
    (b"Mon, 23 Nov 26 17:00:09 EST", b"20261123170009", "two digits, below fifty"),
    (b"Mon, 23 Nov 126 17:00:09 EST", b"20261123170009", "three digits"),
    (b"Mon, 23-Nov-2026 17:00:09", b"20261123170009", "hyphens, seen in practice"),
    (b"Mon, 23 NOVEMBER 2026 17:00:09", b"00000000000000", "a long name in upper case"),
    (b"Mon, 23 November 2026 17:00:09", b"20261123170009", "a long name"),
    # synthetic
    (b"2026-11-23T17:00:09Z", b"00000000000000", "another format"),
    (b"Mon, 23 Foo 2026 17:00:09", b"00000000000000", "no month"),
    (b"99 Dec 9999 99:99:99", b"99991299999999", "impossible, and still fourteen digits"),
    (b"", b"00000000000000", "no Date"),
]


@pytest.mark.parametrize(("date", "stamp", "reason"), STAMPS, ids=[row[2] for row in STAMPS])
def test_generated_id(date: bytes, stamp: bytes, reason: str) -> None:
    examination = examine(b"Date: %b\r\n" % date)
    expected = stamp + b".aaaqeayeaudaocajbifqydiob4@mx.example.org"
    assert generated_id(examination, _DIGEST, "mx.example.org") == expected, reason
    assert is_valid(expected)


@given(st.one_of(st.binary(max_size=60), st.from_regex(rb"[0-9 :a-zA-Z-]{0,40}", fullmatch=True)))
def test_generated_ids_are_valid_whatever_the_date(date: bytes) -> None:
    """Nothing a client sends but digits gets in; every copy gets the same one."""
    examination = examine(b"Date: %b\r\n" % date)
    identity = generated_id(examination, _DIGEST, "mx.example.org")
    assert re.fullmatch(rb"[0-9]{14}\.[a-z2-7]{26}@mx\.example\.org", identity)
    field = message_id_field(identity)
    assert message_id_of([field[len("Message-ID:") :]]).form is Form.VALID
    assert identity == generated_id(examination, _DIGEST, "mx.example.org")


LACKS = [
    (b"To: a\r\n", True, "none"),
    (b"Message-ID: <a-1@b.d>\r\n", False, "one"),
    (b"Message-ID: <>\r\n", False, "an empty one is left alone"),
    (b"Message-ID :\r\n", False, "an empty one, a blank before the colon"),
    (b"DKIM-Signature: h=message-id\r\n", False, "P2: a signature says that there is none"),
    (b"DKIM-Signature: h=from\r\n", True, "a signature that does not care"),
]


@pytest.mark.parametrize(("section", "expected", "reason"), LACKS, ids=[row[2] for row in LACKS])
def test_lacks_id(section: bytes, expected: bool, reason: str) -> None:
    assert lacks_id(examine(section)) is expected, reason
    assert not lacks_id(examine(section, is_whole=False)), "the rest may hold anything"


REPAIRS = [
    # realistic
    (b"Message-ID: a-1@B.d\r\n", b"a-1@b.d", "no brackets"),
    (b"Message-ID: <a-1@b.d> (junk)\r\n", b"a-1@b.d", "a comment behind"),
    (b"Message-ID: <a-\r\n 1@b.d>\r\n", b"a-1@b.d", "folded inside"),
    (b"Message-ID: <>\r\n", b"generated", "empty brackets"),
    (b"Message-ID:\r\n", b"generated", "empty"),
    (b"Message-ID: <@b.d>\r\n", b"generated", "nothing left of the @"),
    # left alone
    (b"Message-ID: <a-1@b.d>\r\n", None, "valid"),
    (b"Message-ID: <a-1>\r\n", None, "weak: there is no right side to give it"),
    (b"Message-ID: <a:1@b.d>\r\n", None, "no brackets and quotes would make it valid"),
    (b"Message-ID: a-1@\xe9.d\r\n", None, "8-bit"),
    (b"Message-ID: " + b"a1" * 500 + b"@b.d\r\n", None, "too long for a line"),
    (b"Message-ID: <a-1@b.d> <a-2@b.d>\r\n", None, "two in a field"),
    (b"Message-ID: a-1@b.d\r\nMessage-ID: a-1@b.d\r\n", None, "two fields"),
    (b"To: a\r\n", None, "none"),
    (b"DKIM-Signature: h=message-id\r\nMessage-ID: a-1@b.d\r\n", None, "P2: signed"),
]


@pytest.mark.parametrize(("section", "expected", "reason"), REPAIRS, ids=[r[2] for r in REPAIRS])
def test_repaired_id(section: bytes, expected: bytes | None, reason: str) -> None:
    assert repaired_id(examine(section), b"generated") == expected, reason
    assert repaired_id(examine(section, is_whole=False), b"generated") is None
    if expected == b"generated":
        assert repaired_id(examine(section), b"") is None


def test_a_repaired_id_is_the_same_message() -> None:
    """A copy that passed us once and comes back is known."""
    before = examine(b"Message-ID: (c) a-1@B.d junk\r\n").message_id
    repaired = repaired_id(examine(b"Message-ID: <a-1@B.d> junk\r\n"), b"")
    assert repaired is not None
    assert message_id_of([b" <%b>\r\n" % repaired]).canonical == b"a-1@b.d"
    assert before.canonical != b"a-1@b.d", "junk without brackets is part of the id"


def test_fields_fit_the_allowance() -> None:
    """RFC 1870 section 4: SIZE is reduced by what we may add."""
    hostname = "a." * 126 + "b"
    longest = mark(
        Decision(Verdict.DUPLICATE, Action.TAGGED),
        Sighting(Sight.SEEN, 2**32 - 1, b"", 2**32 - 1),
        hostname=hostname,
    )
    added = message_id_field(generated_id(examine(b""), _DIGEST, hostname))
    assert max(len(longest), len(added)) <= 998 + 2
    assert len(longest) + len(added) <= ALLOWANCE_OCTETS
