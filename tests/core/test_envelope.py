"""Paths: what servers accept rather than what the grammar allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.envelope import PathArgument, normalized, parse_path

PATHS = [
    # realistic
    (b"FROM:<a@b.example>", b"a@b.example", b"", "as it should be"),
    (b"FROM:<>", b"", b"", "null reverse-path"),
    (b"from: <a@b> SIZE=3 BODY=8BITMIME", b"a@b", b"SIZE=3 BODY=8BITMIME", "blank, parameters"),
    (b"TO:<a@b> NOTIFY=NEVER", b"a@b", b"NOTIFY=NEVER", "a recipient with a parameter"),
    (b"TO:a@b", b"a@b", b"", "no brackets: seen in practice"),
    (b"TO:a@b ORCPT=rfc822;a@b", b"a@b", b"ORCPT=rfc822;a@b", "no brackets, a parameter"),
    (b"TO:<postmaster>", b"postmaster", b"", "RFC 5321 section 4.5.1"),
    (b'TO:<"a b"@c>', b'"a b"@c', b"", "quoted local part"),
    (b'TO:<"a>b"@c>', b'"a>b"@c', b"", "a bracket in quotes"),
    (b'TO:<"a\\"b"@c>', b'"a\\"b"@c', b"", "an escaped quote"),
    (b"TO:<\xc3\xa9@b>", b"\xc3\xa9@b", b"", "SMTPUTF8"),
    (b"TO:<@x,@y:a@b>", b"a@b", b"", "a source route"),
    (b'TO:<@x:"a:b"@c>', b'"a:b"@c', b"", "a source route and a colon"),
    # synthetic
    (b"TO:<a\\>b@c>", b"a\\>b@c", b"", "a backslash outside quotes"),
    (b"TO:<a@b>SIZE=3", b"<a@b>SIZE=3", b"", "no blank before parameters: servers refuse it"),
    (b"TO:<a@b>  X=1 Y ", b"a@b", b"X=1 Y ", "more blanks than one"),
    (b"FROM:<a@b> AUTH=<>", b"a@b", b"AUTH=<>", "brackets in a value"),
    # P6: which address a server takes out of these is its own affair
    (b"TO:a@x<b@x>", b"a@x<b@x>", b"", "Postfix delivers to b"),
    (b"TO: a@x <b@x>", b"a@x <b@x>", b"", "the same with a blank"),
    (b"TO:a@x y <b@x>", b"a@x y <b@x>", b"", "the same behind a word"),
    (b"TO:<a@x><b@x>", b"<a@x><b@x>", b"", "two paths"),
    (b"TO:<a@x>,b@x", b"<a@x>,b@x", b"", "a list"),
    (b"TO:<@y<b@x>:a@x>", b"<@y<b@x>:a@x>", b"", "Postfix takes the whole route away"),
    (b"TO:<@x>", b"@x", b"", "a route that leads nowhere"),
]


@pytest.mark.parametrize(
    ("argument", "path", "parameters", "reason"), PATHS, ids=[row[3] for row in PATHS]
)
def test_path(argument: bytes, path: bytes, parameters: bytes, reason: str) -> None:
    assert parse_path(argument) == PathArgument(path, parameters), reason


NO_PATHS = [
    (b"", "nothing"),
    (b"FROM", "no colon"),
    (b"FROM:", "no path"),
    (b"FROM: ", "blanks"),
    (b"<a@b>", "no keyword"),
    (b"FROM <a@b>", "a blank instead of the colon"),
    (b"FROM:<a@b", "never closes"),
    (b'FROM:<"a@b>', "a quote that never closes"),
    (b"FROM:<a@b\\", "ends in a backslash"),
]


@pytest.mark.parametrize(("argument", "reason"), NO_PATHS, ids=[row[1] for row in NO_PATHS])
def test_no_path(argument: bytes, reason: str) -> None:
    assert parse_path(argument) is None, reason


@given(st.binary(max_size=40))
def test_any_octets_are_a_path_or_none(argument: bytes) -> None:
    parsed = parse_path(b"TO:" + argument)
    if parsed is not None:
        assert parsed.path in argument
        assert argument.endswith(parsed.parameters)


@pytest.mark.parametrize(
    ("parameters", "size_octets", "reason"),
    [
        (b"SIZE=100", 100, "alone"),
        (b"BODY=7BIT size=100", 100, "in any case, behind another"),
        (b"SIZE=100 BODY=7BIT", 100, "before another"),
        (b"", None, "none"),
        (b"XSIZE=100", None, "another name"),
        (b"SIZE=", None, "no number"),
        (b"SIZE=1x", None, "not a number"),
        (b"SIZE=" + b"9" * 21, None, "RFC 1870 section 4: at most twenty digits"),
    ],
)
def test_declared_size(parameters: bytes, size_octets: int | None, reason: str) -> None:
    assert PathArgument(b"a@b", parameters).size_octets == size_octets, reason


@pytest.mark.parametrize(
    ("path", "expected", "reason"),
    [
        (b"Joe@Example.ORG", b"Joe@example.org", "domains have no case, local parts do"),
        (b"Postmaster", b"Postmaster", "no domain"),
        (b"", b"", "null reverse-path"),
        (b'"A@B"@C', b'"A@B"@c', "an @ in quotes"),
        (b'"A@B"', b'"A@B"', "an @ in quotes, no domain"),
        (b"a@\xc3\x89", b"a@\xc3\x89", "only ASCII has a case here"),
    ],
)
def test_normalized(path: bytes, expected: bytes, reason: str) -> None:
    assert normalized(path) == expected, reason
    assert normalized(expected) == expected
