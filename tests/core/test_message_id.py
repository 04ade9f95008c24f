"""Canonical Message-IDs: all vectors and their relations, and what may never happen (P1, P6)."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.header import select
from gateway.core.message_id import (
    Form,
    MessageId,
    canonical_of,
    canonical_of_pasted,
    is_valid,
    is_weak,
    message_id_of,
)

_VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "message-id-vectors.json").read_text("utf-8")
)
_BY_NAME = {vector["id"]: vector for vector in _VECTORS}


def identified(section: bytes) -> MessageId:
    found, _ = select(section, [b"message-id"])
    return message_id_of([field.body for field in found[b"message-id"]])


def read(vector: dict[str, Any]) -> MessageId:
    return identified(vector["header"].encode("latin-1"))


@pytest.mark.parametrize("vector", _VECTORS, ids=lambda vector: vector["id"])
def test_vector(vector: dict[str, Any]) -> None:
    expected = vector["canonical"]
    message_id = read(vector)
    assert message_id.canonical == (None if expected is None else expected.encode("latin-1"))
    relation, _, other = vector["relation"].partition(":")
    match relation:
        case "same-as":
            assert message_id.canonical == read(_BY_NAME[other]).canonical
        case "distinct-from" | "rewritten-of":
            assert message_id.canonical != read(_BY_NAME[other]).canonical
        case "weak":
            assert message_id.form is Form.WEAK
        case "missing":
            assert message_id.form is Form.MISSING
        case "multi-first":
            assert message_id.form is Form.MULTIPLE
        case "trailing-junk":
            assert message_id.form is Form.MALFORMED
        case "canonical" | "collision" | "rewritten" | "resent":
            assert message_id.form is not Form.MISSING
        case _:
            pytest.fail(f"unknown relation {relation}")


def test_vectors_are_all_there() -> None:
    assert len(_VECTORS) == len(_BY_NAME) == 94
    relations = Counter(vector["relation"].partition(":")[0] for vector in _VECTORS)
    assert relations["same-as"] >= 10
    assert relations["distinct-from"] >= 4


def test_different_canonical_vectors_stay_apart() -> None:
    """P6: no two vectors share an id unless a relation says that they do."""
    owners: dict[bytes | None, set[str]] = {}
    for vector in _VECTORS:
        relation, _, other = vector["relation"].partition(":")
        group = other if relation == "same-as" else vector["id"]
        owners.setdefault(read(vector).canonical, set()).add(group)
    owners.pop(None)
    shared = {canonical: groups for canonical, groups in owners.items() if len(groups) > 1}
    # One id in several vectors on purpose: the same text with other trimmings.
    assert set(shared) <= {b"foo@bar"}


FORMS = [
    # realistic
    (b" <20261123.4711@mail.example.org>\r\n", Form.VALID, "as the grammar has it"),
    (b" <20261123.4711@[IPv6:2001:db8::1]>\r\n", Form.VALID, "domain literal"),
    (b' <"a b"@example.org>\r\n', Form.MALFORMED, "a blank in quotes is obsolete, and kept"),
    (b" 20261123.4711@mail.example.org\r\n", Form.MALFORMED, "no brackets"),
    (b" <20261123.4711@mail.example.org> (added)\r\n", Form.MALFORMED, "a comment behind"),
    (b" <a.b.c@>\r\n", Form.WEAK, "nothing right of the @"),
    (b" <aaaaaaaaaaaa@example.org>\r\n", Form.WEAK, "one octet over and over"),
    (b" <20261123.4711@example...>\r\n", Form.WEAK, "cut off by the sender"),
    (b" <1@b.d>\r\n", Form.WEAK, "too short to tell messages apart"),
    (b" <a-1@b.d> <a-2@b.d>\r\n", Form.MULTIPLE, "two in one field"),
    # synthetic
    (b" <a-1@b.d> <a-1@b.d>\r\n", Form.MALFORMED, "the same one twice in one field"),
    (b" <a-1@b.d> <>\r\n", Form.MALFORMED, "the second is none"),
    (b" <a-1@b.d> <open\r\n", Form.MALFORMED, "the second never closes"),
    (b" <a-1@b.d> (was <a-2@b.d>)\r\n", Form.MALFORMED, "the second is in a comment"),
    (b"", Form.MISSING, "empty field"),
    (b" \r\n \r\n", Form.MISSING, "blanks and folding only"),
    (b" <<>>\r\n", Form.MISSING, "brackets in brackets"),
    (b" (none)\r\n", Form.MISSING, "a comment only"),
]


@pytest.mark.parametrize(("body", "form", "reason"), FORMS, ids=[row[2] for row in FORMS])
def test_form(body: bytes, form: Form, reason: str) -> None:
    assert message_id_of([body]).form is form, reason


CANONICAL = [
    # realistic
    (b"<a.b@C.D>", b"a.b@c.d", "case goes right of the @"),
    (b"<A.b@c.d>", b"A.b@c.d", "case stays left of it"),
    (b"<A@B@C.D>", b"A@B@c.d", "the last @ counts"),
    (b'<"a.b"@c.d>', b"a.b@c.d", "needless quotes go"),
    (b'<"a..b"@c.d>', b'"a..b"@c.d', "needed quotes stay"),
    (b"text <a.b@c.d>", b"a.b@c.d", "text before it"),
    (b"(c) a.b@c.d (d)", b"a.b@c.d", "comments around, no brackets"),
    (b"<a(1)b@c.d>", b"a(1)b@c.d", "a parenthesis between text is text"),
    (b"<a (1) b@c.d>", b"ab@c.d", "between blanks it is a comment"),
    # synthetic
    (b"<a(x(y)z)@c.d>", b"a@c.d", "nested comment before the @"),
    (b"<a(1)(2)b@c.d>", b"a(1)(2)b@c.d", "two in a row between text"),
    (b"<a(1)(2) b@c.d>", b"ab@c.d", "two in a row, judged as one"),
    (b"<a(open@c.d>", b"a(open@c.d", "a parenthesis that never closes"),
    (b"<a)b@c.d>", b"a)b@c.d", "one that never opened"),
    (b"<a\\(b) c@d>", b"a\\(b)c@d", "an escaped parenthesis opens nothing"),
    (b"<<a@b>>", b"a@b", "doubled brackets"),
    (b"a@b>", b"a@b", "stray closing bracket"),
    (b"<a@b", b"a@b", "no closing bracket"),
    (b"x <a@b", b"a@b", "text before a bracket that never closes"),
    (b"x <a (c) @b", b"a@b", "the same, with a comment"),
    (b"a@b<", None, "nothing behind a bracket that never closes"),
    (b"(c <x@y>) <a@b>", b"a@b", "brackets in a comment"),
    (b"x (c <x@y>) <a@b>", b"a@b", "brackets in a comment, behind text"),
    (b'"a<b"@c', b'"a<b"@c', "a bracket in quotes, no other"),
    (b"(%b) <a@b.d>" % (b"long (really) " * 200), b"a@b.d", "a long comment is one all the same"),
    (b'<a"b c"@d>', b'a"b c"@d', "a blank in quotes stays"),
    (b'<a"b c@d>', b'a"bc@d', "a quote that never closes quotes nothing"),
    (b"\xff\xfe@\xe9", b"\xff\xfe@\xe9", "octets stay octets"),
    # pathological
    (b"<" * 1000, None, "brackets only"),
    (b"(" * 1000, b"(" * 1000, "unbalanced parentheses are text"),
    (b"<" + b"a" * 998 + b"@B.d>", b"a" * 998 + b"@b.d", "too long for a line: case still goes"),
    (b"<" + b"(a)" * 501 + b" b>", b"(a)" * 501 + b"b", "too many comments stay"),
    (b'<"a"@b' + b"(" * 1001 + b">", b'"a"@b' + b"(" * 1001, "then quotes stay, too"),
    (b'<"a" (c) @b> ' + b"(" * 1001, b"a@b", "what is behind the brackets does not count"),
    (b'<"' + b"a" * 998 + b'"@b.d>', b"a" * 998 + b"@b.d", "too long for a line: quotes go"),
    (b"<a@b> " + b"c" * 999, b"a@b", "too long for a line: what is behind goes"),
    (b"@", None, "nothing on both sides"),
    (b"<@>", None, "nothing on both sides, in brackets"),
]


@pytest.mark.parametrize(("body", "expected", "reason"), CANONICAL, ids=[r[2] for r in CANONICAL])
def test_canonical(body: bytes, expected: bytes | None, reason: str) -> None:
    assert canonical_of(body) == expected, reason


# Octets that mean something to a parser of Message-IDs, and some that do not.
_HOSTILE = st.lists(
    st.sampled_from([bytes([octet]) for octet in b'<>@"\\() \t\r\n.,:;[]aB1\x00\xe9\xff']),
    max_size=24,
).map(b"".join)
_OCTETS = st.binary(max_size=60)
_ATOM = st.text("abcXYZ019!#$%&'*+-/=?^_`{|}~", min_size=1, max_size=8)
_DOT_ATOM = st.lists(_ATOM, min_size=1, max_size=4).map(lambda atoms: ".".join(atoms).encode())


@given(st.one_of(_HOSTILE, _OCTETS))
@example(b'<"a<b"@c>')
@example(b'"(" (a) b@c')
@example(b"a (b)(c)@d")
@example(b'"a"(b)"c"@d')
@example(b"<a (b) c@d> " + b"(" * 1001)
@example(b'"><"')
@example(b'a>"b<."@c')
def test_canonicalisation_is_idempotent_and_total(body: bytes) -> None:
    """Never raises on any octets; who pastes a canonical id means that one."""
    canonical = canonical_of(body)
    overlong = canonical_of(body * 50)
    assert overlong is None or canonical_of_pasted(overlong) == overlong
    if canonical is not None:
        assert canonical
        assert canonical_of_pasted(canonical) == canonical
        assert canonical_of_pasted(b" " + canonical + b"\r\n") == canonical
        if b"<" not in canonical:
            assert canonical_of(canonical) == canonical
        is_valid(canonical)
        is_weak(canonical)


@pytest.mark.parametrize(
    ("pasted", "expected"),
    [
        (b"<a.b@C.d>", b"a.b@c.d"),
        (b" a.b@C.d\n", b"a.b@c.d"),
        (b"Message-ID: <a.b@c.d>", b"a.b@c.d"),
        (b"Message-ID: <a.b@c.d", b"a.b@c.d"),
        (b"<a.b@c.d", b"a.b@c.d"),
        (b"a<b@c.d", b"a<b@c.d"),
        (b"<a<b@c.d>", b"a<b@c.d"),
        (b"<>", None),
    ],
)
def test_what_is_pasted_is_understood(pasted: bytes, expected: bytes | None) -> None:
    assert canonical_of_pasted(pasted) == expected


@given(st.lists(st.one_of(_HOSTILE, _OCTETS), max_size=7))
def test_many_fields_are_total(bodies: list[bytes]) -> None:
    """The first field that is not empty counts; `MISSING` and only that has no id."""
    message_id = message_id_of(bodies)
    telling = [body for body in bodies if body.strip(b" \t\r\n<>")]
    known = [value for value in map(canonical_of, telling[:5]) if value is not None]
    assert message_id.canonical == (known[0] if known else None)
    assert (message_id.form is Form.MISSING) == (message_id.canonical is None)


@given(_HOSTILE)
def test_short_way_and_long_way_agree(body: bytes) -> None:
    """The short way for plain ids says what the long way says, which several fields always take."""
    alone, twice = message_id_of([body]), message_id_of([body, body])
    assert alone == twice


@given(_DOT_ATOM, _DOT_ATOM)
def test_short_way_agrees_on_plain_ids(left: bytes, right: bytes) -> None:
    body = b" <%b@%b>\r\n" % (left, right)
    assert message_id_of([body]) == message_id_of([body, body])
    assert message_id_of([body]).canonical == left + b"@" + right.lower()


_FOLD = st.sampled_from([b"", b" ", b"\t", b"\r\n ", b"\r\n\t", b" \r\n  ", b"\n "])
_COMMENT = st.sampled_from([b"", b"(c)", b"(a (b) c)", b" (c) ", b"\r\n (c)\r\n "])
_AROUND = st.lists(st.one_of(_FOLD, _COMMENT), max_size=3).map(b"".join)


@given(_DOT_ATOM, _DOT_ATOM, _AROUND, _AROUND)
def test_folding_blanks_and_comments_around_change_nothing(
    left: bytes, right: bytes, before: bytes, after: bytes
) -> None:
    """P1: what relays do around an id never makes a copy look like another message."""
    plain = canonical_of(b"<%b@%b>" % (left, right))
    assert canonical_of(b"%b<%b@%b>%b\r\n" % (before, left, right, after)) == plain


@given(_DOT_ATOM, _DOT_ATOM, st.lists(_FOLD, min_size=4, max_size=4), st.data())
def test_folding_inside_changes_nothing(
    left: bytes, right: bytes, folds: list[bytes], data: st.DataObject
) -> None:
    """Seen in practice: ids folded in the middle because they were longer than a line."""
    cut = data.draw(st.integers(0, len(left)))
    first, second, third, last = folds
    body = b"<%b%b%b%b%b@%b%b>%b" % (
        first, left[:cut], second, left[cut:], third, right, last, first,
    )  # fmt: skip
    assert canonical_of(body) == left + b"@" + right.lower()


@given(_DOT_ATOM, _DOT_ATOM, _DOT_ATOM, _DOT_ATOM)
def test_different_ids_stay_apart(a: bytes, b: bytes, c: bytes, d: bytes) -> None:
    """P6: nothing but the case of the right-hand side is given up."""
    is_same = a == c and b.lower() == d.lower()
    one, other = canonical_of(b"<%b@%b>" % (a, b)), canonical_of(b"<%b@%b>" % (c, d))
    assert (one == other) == is_same


@pytest.mark.parametrize(
    ("bodies", "form", "canonical", "reason"),
    [
        ([b" <a-1@b.d>"], Form.VALID, b"a-1@b.d", "one"),
        ([b" <a-1@b.d>", b" <a-1@B.D>"], Form.VALID, b"a-1@b.d", "the same twice"),
        ([b" <a-1@b.d>", b" <a-2@b.d>"], Form.MULTIPLE, b"a-1@b.d", "two: the first counts"),
        ([b"", b" <a-2@b.d>"], Form.MULTIPLE, b"a-2@b.d", "the first is empty"),
        ([b" <a-1@b.d>", b""], Form.MULTIPLE, b"a-1@b.d", "the second is empty"),
        ([b" <a-1@b.d>", b" a-1@b.d"], Form.MALFORMED, b"a-1@b.d", "the second lacks brackets"),
        ([b" <a-1@b.d>"] * 5, Form.VALID, b"a-1@b.d", "five times the same"),
        ([b" <a-1@b.d>"] * 6, Form.MULTIPLE, b"a-1@b.d", "more than relays add"),
        ([b"", b"<>"] * 5 + [b"<a-1@b.d>"], Form.MULTIPLE, b"a-1@b.d", "below many empty ones"),
        ([b"@x"] * 5 + [b" <a-1@b.d>"], Form.MISSING, None, "below more than relays add"),
        ([], Form.MISSING, None, "none"),
        ([b"", b"<>"], Form.MISSING, None, "two empty ones"),
    ],
)
def test_fields(bodies: list[bytes], form: Form, canonical: bytes | None, reason: str) -> None:
    assert message_id_of(bodies) == MessageId(form, canonical), reason
