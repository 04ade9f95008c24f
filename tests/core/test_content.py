"""Content: where it ends, what must not be in it, and dots, however it is cut (P2, P5)."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.content import ContentScanner, Unstuffer, stuffed, unstuffed

_ANY_END = re.compile(rb"\r\n\.\r\n")
_VIOLATIONS = {"bare_cr": rb"\r(?!\n)", "bare_lf": rb"(?<!\r)\n", "nul": rb"\x00"}


def scanned(chunks: list[bytes]) -> tuple[bytes, bool, str, bytes]:
    """Feed chunks as a face does: what follows the end is no content."""
    scanner = ContentScanner()
    content = b""
    for index, chunk in enumerate(chunks):
        content += scanner.feed(chunk)
        if scanner.is_complete:
            return content, True, scanner.violation, scanner.rest + b"".join(chunks[index + 1 :])
    return content, False, scanner.violation, b""


def reference(wire: bytes) -> tuple[bytes, str, bytes] | None:
    """Say the same of a whole dialogue at once, plainly; None if the end has not come."""
    whole = b"\r\n" + wire
    end = _ANY_END.search(whole)
    if end is None:
        return None
    content = whole[: end.start() + 2]
    first = [
        (found.start(), kind)
        for kind, pattern in _VIOLATIONS.items()
        if (found := re.search(pattern, content))
    ]
    return content[2:], min(first)[1] if first else "", whole[end.end() :]


def cut(wire: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(wire) + 1) for place in places), len(wire)]
    return [wire[a:b] for a, b in pairwise(edges)]


ENDS = [
    # realistic
    (b"a\r\n.\r\n", b"a\r\n", "", b"", "one line"),
    (b".\r\n", b"", "", b"", "no content at all"),
    (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", "", b"QUIT\r\n", "the next command came along"),
    (b"..\r\n.\r\n", b"..\r\n", "", b"", "a stuffed dot is not the end"),
    (b"a.\r\n.\r\n", b"a.\r\n", "", b"", "a dot at the end of a line"),
    (b"\xff\x80\r\n.\r\n", b"\xff\x80\r\n", "", b"", "8-bit"),
    (b"\r\n\r\n.\r\n", b"\r\n\r\n", "", b"", "empty lines"),
    # attacks: SMTP smuggling
    (b"a\n.\n.\r\n\r\n.\r\n", b"a\n.\n.\r\n\r\n", "bare_lf", b"", "LF . LF"),
    (b"a\n.\r\nb\r\n.\r\n", b"a\n.\r\nb\r\n", "bare_lf", b"", "LF . CRLF"),
    (b"a\r\n.\nb\r\n.\r\n", b"a\r\n.\nb\r\n", "bare_lf", b"", "CRLF . LF"),
    (b"a\r.\r\n.\r\n", b"a\r.\r\n", "bare_cr", b"", "CR . CRLF"),
    (b"a\r\n.\r\r\nb\r\n.\r\n", b"a\r\n.\r\r\nb\r\n", "bare_cr", b"", "CRLF . CR CRLF"),
    (b"a\r\n\0.\r\n.\r\n", b"a\r\n\0.\r\n", "nul", b"", "NUL before the dot"),
    (b"a\r\n.\0\r\n.\r\n", b"a\r\n.\0\r\n", "nul", b"", "NUL behind the dot"),
    (b"\n.\r\n.\r\n", b"\n.\r\n", "bare_lf", b"", "LF first of all"),
    # synthetic
    (b"\0\r\n\n.\r\n\r\n.\r\n", b"\0\r\n\n.\r\n\r\n", "nul", b"", "the first violation counts"),
    (b"a\r\n.\r\n\n\0", b"a\r\n", "", b"\n\0", "behind the end nothing matters"),
]


@pytest.mark.parametrize(
    ("wire", "content", "violation", "rest", "reason"), ENDS, ids=[row[4] for row in ENDS]
)
def test_end(wire: bytes, content: bytes, violation: str, rest: bytes, reason: str) -> None:
    expected = (content, True, violation, rest)
    assert scanned([wire]) == expected, reason
    assert scanned([wire[i : i + 1] for i in range(len(wire))]) == expected, reason


# All that matters to the scanner, and one octet that does not.
_WIRE = st.lists(
    st.sampled_from([b"\r\n", b"\r\n.\r\n", b"\r", b"\n", b".", b"\0", b"a"]), max_size=14
).map(b"".join)


@given(_WIRE, st.lists(st.integers(0, 40), max_size=8))
@example(b"a\r\n.\r\n", [1, 2, 3, 4, 5])
@example(b"\0\n\r\n.\r\n", [1])
def test_scanner_equals_reference_however_cut(wire: bytes, places: list[int]) -> None:
    """P2, P5: every octet is handed on once, and chunk borders never change what is seen."""
    content, is_complete, violation, rest = scanned(cut(wire, places))
    expected = reference(wire)
    if expected is None:
        assert not is_complete
        assert wire.startswith(content)
        # Only what may still become the end is held back.
        assert len(wire) - len(content) <= 4
    else:
        assert is_complete
        assert (content, violation, rest) == expected


def test_content_is_handed_on_as_early_as_possible() -> None:
    scanner = ContentScanner()
    assert scanner.feed(b"a\r\nb\r") == b"a\r\nb"
    assert scanner.feed(b"\n.") == b""
    assert scanner.feed(b".x") == b"\r\n..x"
    assert scanner.feed(b"") == b""


DOTS = [
    (b"a\r\n..b\r\n", b"a\r\n.b\r\n", "a stuffed line"),
    (b"..a\r\n", b".a\r\n", "the first line"),
    (b"a.b\r\n.\r\n", b"a.b\r\n\r\n", "a lone dot is removed as well"),
    (b"a\n..b", b"a\n..b", "only CRLF ends a line"),
    (b"\r\n...\r\n..", b"\r\n..\r\n.", "one dot a line"),
    (b"", b"", "nothing"),
    (b"no dots\r\n", b"no dots\r\n", "the common case"),
]


@pytest.mark.parametrize(("wire", "meant", "reason"), DOTS, ids=[row[2] for row in DOTS])
def test_unstuffed(wire: bytes, meant: bytes, reason: str) -> None:
    assert unstuffed(wire) == meant, reason


@given(_WIRE, st.lists(st.integers(0, 40), max_size=8))
@example(b"a\r\n..b", [1, 2, 3, 4])
@example(b"\r\n..", [3])
def test_unstuffing_does_not_depend_on_borders(wire: bytes, places: list[int]) -> None:
    unstuffer = Unstuffer()
    assert b"".join(unstuffer.feed(chunk) for chunk in cut(wire, places)) == unstuffed(wire)


@given(_WIRE)
def test_stuffing_and_unstuffing_are_inverse(content: bytes) -> None:
    assert unstuffed(stuffed(content)) == content
    assert _ANY_END.search(b"\r\n" + stuffed(content)) is None
