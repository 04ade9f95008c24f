"""The fingerprint: the same for two copies, however they travelled; another for another content."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.content import Unstuffer, stuffed
from gateway.core.fingerprint import DIGEST_OCTETS, Fingerprinter
from gateway.core.policy import examine


def fingerprint(section: bytes, *chunks: bytes) -> bytes:
    examination = examine(section)
    fingerprinter = Fingerprinter(examination.identifying)
    fingerprinter.update(examination.stray)
    for chunk in chunks:
        fingerprinter.update(chunk)
    return fingerprinter.digest()


_SECTION = (
    b"From: a@b\r\nDate: Mon, 23 Nov 2026 17:00:00 +0100\r\nSubject: Hello world\r\nTo: c@d\r\n"
)
_BODY = b"\r\nDear reader,\r\n\r\n.dots\r\nfarewell\r\n"
_FIRST = fingerprint(_SECTION, _BODY)

SAME = [
    # realistic
    (b"Received: by x\r\n" + _SECTION, _BODY, "a trace field on top"),
    (_SECTION.replace(b"Hello world", b"Hello\r\n world"), _BODY, "Subject folded"),
    (_SECTION.replace(b"Hello world", b"Hello\r\n\tworld "), _BODY, "folded with a tab, a blank"),
    (_SECTION.replace(b"Subject: ", b"SUBJECT:"), _BODY, "another way to write the name"),
    (_SECTION.replace(b"To: c@d", b"To: e@f"), _BODY, "To rewritten: it is not in it"),
    (_SECTION, _BODY.replace(b"\r\n", b"\n"), "line ends changed"),
    (_SECTION, _BODY + b"\r\n\r\n", "empty lines added at the end"),
    (_SECTION, _BODY.replace(b"reader,", b"reader, \t"), "trailing blanks"),
    (
        b"Subject: Hello world\r\n" + _SECTION.replace(b"Subject: Hello world\r\n", b""),
        _BODY,
        "order",
    ),
]
OTHER = [
    # realistic
    (_SECTION.replace(b"Hello", b"hello"), _BODY, "another Subject"),
    (_SECTION.replace(b"17:00:00", b"17:00:01"), _BODY, "another Date"),
    (_SECTION.replace(b"a@b", b"x@b"), _BODY, "another From"),
    (_SECTION, _BODY.replace(b"Dear", b"dear"), "another body"),
    (_SECTION, _BODY.replace(b".dots", b"dots"), "a dot is content"),
    # attacks
    (_SECTION + b"Subject: Hello world\r\n", _BODY, "a second Subject"),
    (
        _SECTION.replace(b"Subject: Hello world\r\n", b""),
        b"Hello world" + _BODY,
        "moved to the body",
    ),
    (_SECTION.replace(b"Hello world", b"Helloworld"), _BODY, "words of a field joined"),
]


@pytest.mark.parametrize(("section", "body", "reason"), SAME, ids=[row[2] for row in SAME])
def test_transport_changes_nothing(section: bytes, body: bytes, reason: str) -> None:
    """P1: a copy that came another way is the same message."""
    assert fingerprint(section, body) == _FIRST, reason


@pytest.mark.parametrize(("section", "body", "reason"), OTHER, ids=[row[2] for row in OTHER])
def test_other_content_is_told(section: bytes, body: bytes, reason: str) -> None:
    """P6: what a reader would see as another message is one."""
    assert fingerprint(section, body) != _FIRST, reason


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=8))
def test_chunk_borders_never_change_a_fingerprint(body: bytes, places: list[int]) -> None:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    chunks = [body[a:b] for a, b in pairwise(edges)]
    assert fingerprint(_SECTION, *chunks) == fingerprint(_SECTION, body)


@given(st.lists(st.sampled_from([b".", b"..", b"\r\n", b"a"])).map(b"".join), st.integers(1, 5))
def test_dot_stuffing_never_changes_a_fingerprint(body: bytes, step: int) -> None:
    """A message from the milter, unstuffed, is the same as one over SMTP."""
    wire = stuffed(body)
    unstuffer = Unstuffer()
    chunks = [unstuffer.feed(wire[i : i + step]) for i in range(0, len(wire), step)]
    assert fingerprint(_SECTION, *chunks) == fingerprint(_SECTION, body)


@given(
    st.lists(st.lists(st.binary(max_size=4), max_size=2), min_size=3, max_size=3),
    st.lists(st.lists(st.binary(max_size=4), max_size=2), min_size=3, max_size=3),
    st.binary(max_size=4),
    st.binary(max_size=4),
)
def test_no_two_headers_run_together(
    one: list[list[bytes]], other: list[list[bytes]], first: bytes, second: bytes
) -> None:
    """P6: each part is told from the next, so that octets cannot be moved between them."""

    def digest(identifying: list[list[bytes]], body: bytes) -> bytes:
        fingerprinter = Fingerprinter(identifying)
        fingerprinter.update(body)
        return fingerprinter.digest()

    text, other_text = (body.translate(None, b" \t\r\n") for body in (first, second))
    is_same = one == other and text == other_text
    assert (digest(one, first) == digest(other, second)) == is_same


def test_missing_empty_line_changes_nothing() -> None:
    """A relay adds it where a header section ends in a line that is no field."""
    assert fingerprint(_SECTION + b"text\r\n", b"\r\nmore\r\n") == fingerprint(
        _SECTION, b"\r\ntext\r\nmore\r\n"
    )


def test_version_is_fixed() -> None:
    """Records outlive an upgrade: whoever changes the recipe must change the version as well."""
    assert len(_FIRST) == DIGEST_OCTETS
    assert _FIRST.hex() == "0b1e91dc9e360cd0f00a48d5045b768e"
