"""Raw header sections: found as servers find fields, changed by nothing but whole fields (P2)."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.header import (
    Field,
    collapsed,
    header_length,
    prepended,
    select,
    start_of_fields,
    unfolded,
    without,
)


def bodies(section: bytes, name: bytes) -> list[bytes]:
    return [field.body for field in select(section, [name])[0][name]]


FOUND = [
    # realistic
    (b"To: a@b\r\n", [b" a@b\r"], b"", "one line"),
    (b"To:a@b\r\n", [b"a@b\r"], b"", "no blank after the colon"),
    (b"TO: a\r\nFrom: c\r\nto: b\r\n", [b" a\r", b" b\r"], b"", "in any case, in order"),
    (b"To : a@b\r\n", [b" a@b\r"], b"", "blanks before the colon are obsolete, and seen"),
    (b"To\t \t: a@b\r\n", [b" a@b\r"], b"", "tabs before the colon"),
    (b"To: a,\r\n b,\r\n\tc\r\nX: y\r\n", [b" a,\r\n b,\r\n\tc\r"], b"", "folded"),
    (b"To:\r\n a\r\n", [b"\r\n a\r"], b"", "folded at once"),
    (b"To: a\r\n \r\nX: y\r\n", [b" a\r\n \r"], b"", "a continuation of blanks only"),
    (b"X-To: a\r\n", [], b"", "another name"),
    (b"From joe Mon Nov 23\r\nTo: a\r\n", [b" a\r"], b"", "an mbox line leads"),
    (b">From joe\r\n>>From x\r\nTo: a\r\n", [b" a\r"], b"", "quoted mbox lines lead"),
    (b"To: a\nX: y\n", [b" a"], b"", "LF alone, in files"),
    (b"To: a", [b" a"], b"", "no line end at all"),
    (b"To: a\r\n b", [b" a\r\n b"], b"", "no line end in a continuation"),
    # synthetic
    (b"To: \xe9\xff\x80\r\n", [b" \xe9\xff\x80\r"], b"", "8-bit body"),
    (b"X\xe9: a\r\nTo: b\r\n", [b" b\r"], b"", "8-bit name above"),
    (b"To: a\r\nno field\r\nTo: b\r\n", [b" a\r"], b"no field\r\nTo: b\r\n", "a line that is none"),
    (b"To: a\r\nFrom x\r\nTo: b\r\n", [b" a\r"], b"From x\r\nTo: b\r\n", "an mbox line below"),
    (b" To: a\r\nTo: b\r\n", [], b" To: a\r\nTo: b\r\n", "it begins with a continuation"),
    (b": a\r\nTo: b\r\n", [], b": a\r\nTo: b\r\n", "no name"),
    (b"To a: b\r\n", [], b"To a: b\r\n", "a blank in the name"),
    (b"To\r\n : b\r\n", [], b"To\r\n : b\r\n", "folded before the colon"),
    (b"T\x00o: b\r\n", [], b"T\x00o: b\r\n", "NUL in the name"),
    (b"To: a\x00b\r\n", [b" a\x00b\r"], b"", "NUL in the body"),
    (b"To: a\rTo: b\r\n", [b" a\rTo: b\r"], b"", "a bare CR ends no line"),
    (b"", [], b"", "nothing"),
    (b"\r\n", [], b"\r\n", "an empty line"),
]


@pytest.mark.parametrize(
    ("section", "expected", "stray", "reason"), FOUND, ids=[r[3] for r in FOUND]
)
def test_select(section: bytes, expected: list[bytes], stray: bytes, reason: str) -> None:
    assert bodies(section, b"to") == expected, reason
    assert select(section, [b"to"])[1] == stray, reason


def test_select_tells_where_fields_stand() -> None:
    section = b"From joe\r\nA: 1\r\nB: 2\r\n 3\r\nA: 4\r\n"
    found, _ = select(section, [b"a", b"b"])
    assert found == {
        b"a": [Field(b" 1\r", 10, 16), Field(b" 4\r", 26, 32)],
        b"b": [Field(b" 2\r\n 3\r", 16, 26)],
    }
    assert section[16:26] == b"B: 2\r\n 3\r\n"


LENGTHS = [
    # realistic
    (b"A: 1\r\n\r\nbody\r\n\r\n", 6, "the first empty line counts"),
    (b"A: 1\r\n", None, "it has not come"),
    (b"A: 1\r\n\r", None, "half of it has come"),
    (b"A: 1\n\nbody", 5, "LF alone, in files"),
    (b"A: 1\r\n \r\n\r\n", 9, "a line of blanks is a continuation"),
    # synthetic
    (b"\r\nbody", 0, "no header at all"),
    (b"\nbody", 0, "no header at all, LF alone"),
    (b"", None, "nothing"),
    (b"\r", None, "hardly anything"),
    (b"A: 1\n\nx\r\n\r\n", 5, "LF alone comes first"),
    (b"A: 1\r\n\r\nx\n\n", 6, "CRLF comes first"),
    (b"A: 1\r\n\n", 6, "mixed"),
]


@pytest.mark.parametrize(("content", "length", "reason"), LENGTHS, ids=[r[2] for r in LENGTHS])
def test_header_length(content: bytes, length: int | None, reason: str) -> None:
    assert header_length(content) == length, reason
    assert header_length(bytearray(content)) == length, reason


_CRLF_TEXT = st.lists(
    st.sampled_from([b"A", b":", b" ", b"\r", b"\n", b"\r\n", b"\r\n\r\n"]), max_size=12
).map(b"".join)


@given(_CRLF_TEXT, st.lists(st.integers(1, 3), max_size=12))
def test_header_length_as_octets_come(content: bytes, steps: list[int]) -> None:
    """What an earlier call has searched need not be searched again."""
    whole = header_length(content)
    searched = end = 0
    for step in [*steps, len(content)]:
        end = min(len(content), end + step)
        length = header_length(content[:end], searched)
        if length is not None:
            assert length == whole
            return
        searched = end
    assert whole is None


def test_unfolded() -> None:
    assert unfolded(b" a\r\n b\n\tc \r\n") == b"a b\tc"
    assert unfolded(b"\r\n") == b""


def test_collapsed() -> None:
    assert collapsed(b" a \r\n\t b\tc\r\n") == b"a b c"
    assert collapsed(b" \r\n ") == b""


# Header sections as they may come: fields, folding, junk, mbox lines, cut anywhere.
_LINE = st.sampled_from(
    [
        b"A: 1\r\n",
        b"X-Mailonce: new\r\n",
        b"x-mailonce : folded\r\n more\r\n",
        b"From joe\r\n",
        b">From joe\r\n",
        b"From : joe\r\n",
        b"From: joe\r\n",
        b" continued\r\n",
        b"\tcontinued\r\n",
        b"no field\r\n",
        b"\r\n",
        b"B: \xff\x00\r\n",
        b"C: LF\n",
        b"last",
    ]
)
_SECTION = st.one_of(st.lists(_LINE, max_size=8).map(b"".join), st.binary(max_size=40))
_NEW = b"X-New: 1\r\n"


@given(_SECTION)
@example(b" a\r\n")
@example(b"From joe\r\n a\r\n")
def test_prepending_leaves_every_octet_in_place(section: bytes) -> None:
    """P2: what came in is still there, in one piece but for mbox lines that must stay on top."""
    at = start_of_fields(section)
    whole = prepended(section, _NEW)
    assert whole.startswith(section[:at] + _NEW)
    assert whole.endswith(section[at:])
    assert len(whole) - len(section) - len(_NEW) in (0, 2)


@given(_SECTION)
@example(b" a\r\n")
def test_a_prepended_field_is_found_as_it_was_given(section: bytes) -> None:
    """Nothing of the message joins our field, and its own fields stay what they were."""
    before, _ = select(section, [b"a", b"from", b"x-new"])
    after, _ = select(prepended(section, _NEW), [b"a", b"from", b"x-new"])
    assert after[b"x-new"][0].body == b" 1\r"
    for name in (b"a", b"from"):
        assert [f.body for f in after[name]] == [f.body for f in before[name]]


def test_prepending_nothing() -> None:
    assert prepended(b" a\r\n") == b" a\r\n"
    assert prepended(b" a\r\n", b"", b"") == b" a\r\n"


def test_prepending_several_keeps_their_order() -> None:
    assert prepended(b"C: 3\r\n", b"A: 1\r\n", b"", b"B: 2\r\n") == b"A: 1\r\nB: 2\r\nC: 3\r\n"


REMOVED = [
    # realistic
    (b"X-Mailonce: a\r\nTo: b\r\n", b"To: b\r\n", "on top"),
    (b"To: b\r\nX-Mailonce: a\r\n", b"To: b\r\n", "at the end"),
    (b"To: b\r\nX-Mailonce: a\r\n b\r\n\tc\r\nCc: d\r\n", b"To: b\r\nCc: d\r\n", "folded"),
    (b"X-MAILONCE : a\r\nTo: b\r\n", b"To: b\r\n", "any case, a blank before the colon"),
    (b"X-Mailonce: a\r\nTo: b\r\nX-Mailonce: c\r\n", b"To: b\r\n", "several"),
    (b"X-Mailonce-2: a\r\n", b"X-Mailonce-2: a\r\n", "another name"),
    # attacks
    (b"X-Mailonce: a\r\nFrom x\r\nTo: b\r\n", b"\r\nFrom x\r\nTo: b\r\n", "text stays text"),
    (b"X-Mailonce: a\r\nFrom : x\r\nTo: b\r\n", b"From : x\r\nTo: b\r\n", "a field stays a field"),
    (
        b"X-Mailonce: a\r\nFrom : x\r\nFrom : y\r\nTo: b\r\n",
        b"From : x\r\nFrom : y\r\nTo: b\r\n",
        "so do several",
    ),
    (
        b"X-Mailonce: a\r\nFrom : x\r\nFrom y\r\nTo: b\r\n",
        b"From : x\r\n\r\nFrom y\r\nTo: b\r\n",
        "text behind a field stays text, and the field stays above it",
    ),
    (b"From x\r\nX-Mailonce: a\r\nFrom y\r\n", b"From x\r\n\r\nFrom y\r\n", "below an mbox line"),
    (b"text\r\nX-Mailonce: a\r\n", b"text\r\nX-Mailonce: a\r\n", "in the body it is text"),
]


@pytest.mark.parametrize(("section", "left", "reason"), REMOVED, ids=[r[2] for r in REMOVED])
def test_without(section: bytes, left: bytes, reason: str) -> None:
    found, _ = select(section, [b"x-mailonce"])
    assert without(section, found[b"x-mailonce"]) == left, reason


@given(_SECTION)
@example(b"X-Mailonce: a\r\nFrom x\r\nA: b\r\n")
@example(b"X-Mailonce: a\r\nFrom : x\r\nA: b\r\n")
@example(b"X-Mailonce: a\r\nFrom : x\r\nFrom y\r\nX-Mailonce: b\r\n")
@example(b"X-Mailonce: a\r\nFrom : x\r\nFrom : y\r\nA: b\r\n")
def test_removing_leaves_all_else_in_place(section: bytes) -> None:
    """P2: no field of ours is left, and no line of the body has become a field."""
    names = [b"x-mailonce", b"a", b"b", b"c", b"from"]
    before, stray = select(section, names)
    left = without(section, before[b"x-mailonce"])
    after, _ = select(left, names)
    assert not after[b"x-mailonce"]
    assert left.endswith(stray)
    # "From : x" on top is an mbox line to servers; nothing below it may gain by that.
    is_first_taken = left[start_of_fields(section) :].startswith(b"From :")
    for name in names[1:-1]:
        values = [f.body for f in after[name]]
        assert values == [f.body for f in before[name]] or (is_first_taken and not values)
