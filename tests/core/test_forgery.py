"""Forged fields behind the examined part of a header section."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.forgery import ForgeryFilter
from gateway.core.header import header_length, without
from gateway.core.policy import examine


def filtered(section: bytes, *blocks: bytes) -> bytes:
    """Return what is left of blocks behind a section that was cut."""
    forgeries = ForgeryFilter(section, examine(section, is_whole=False))
    return b"".join([*map(forgeries.feed, blocks), forgeries.rest()])


@pytest.mark.parametrize(
    ("section", "behind", "left", "reason"),
    [
        (b"To: a\r\n", b"X-Mailonce: a\r\n\tb\r\nTo: c\r\n", b"To: c\r\n", "a folded one"),
        (b"To: a\r\n", b"x-MAILONCE \t: a\r\n\r\n", b"\r\n", "blanks before the colon"),
        (b"X-Mailonce: a\r\n", b" b\r\nTo: c\r\n", b"To: c\r\n", "its rest is behind the cut"),
        (b"X-Mailonce: a", b"b\r\n c\r\nTo: c\r\n", b"To: c\r\n", "it is longer than the limit"),
        (b"To: a\r\n", b" X-Mailonce: a\r\n", b" X-Mailonce: a\r\n", "a continuation"),
        (b"To: a", b"b\r\nX-Mailonce: a\r\n", b"b\r\n", "the line before it was cut"),
        (b"To: a\r\n", b"X-Mailonce-Not: a\r\n", b"X-Mailonce-Not: a\r\n", "another name"),
        (b"To: a\r\n", b"\r\nX-Mailonce: a\r\n", b"\r\nX-Mailonce: a\r\n", "in the body"),
        (b"To: a\r\n", b"hi\r\nX-Mailonce: a\r\n", b"hi\r\nX-Mailonce: a\r\n", "no empty line"),
        (b"hi\r\n", b"X-Mailonce: a\r\n", b"X-Mailonce: a\r\n", "the body had begun"),
        (b"To: a\r\n", b"X-Mailonce", b"X-Mailonce", "no field, and the end"),
        (b"To: a\r\n", b"X-Mailonce" + b" " * 9000 + b": a\r\nB: c\r\n", b"B: c\r\n", "blanks"),
        (b"", b"X-Mailonce: a\r\nTo: c\r\n", b"To: c\r\n", "nothing was examined"),
    ],
)
def test_what_is_left(section: bytes, behind: bytes, left: bytes, reason: str) -> None:
    """P2: whole fields of ours go, everything else stays."""
    octets = [behind[i : i + 1] for i in range(len(behind))]
    assert filtered(section, behind) == left, reason
    assert filtered(section, *octets) == left, reason


_LINE = st.sampled_from(
    [
        b"X-Mailonce: duplicate\r\n",
        b"x-mailonce\t: a\r\n",
        b"\tfolded\r\n",
        b"To: b\r\n",
        b"..dots: b\r\n",
        b"no field\r\n",
        b"\r\n",
    ]
)


@given(st.lists(_LINE, max_size=9).map(b"".join), st.integers(0, 60), st.integers(1, 9))
def test_cut_or_whole_the_same_is_left(content: bytes, cut: int, step: int) -> None:
    """P2: the limit for header sections makes no difference to what is removed."""
    cut = content.rfind(b"\n", 0, cut) + 1
    length = header_length(content)
    length = len(content) if length is None else length
    if cut > length or content.startswith((b"\t", b"no")):
        return
    section, behind = content[:cut], content[cut:]
    blocks = [behind[i : i + step] for i in range(0, len(behind), step)]
    seen = examine(section, is_whole=False)
    whole = examine(content[:length])
    assert without(section, seen.forged) + filtered(section, *blocks) == (
        without(content[:length], whole.forged) + content[length:]
    )
