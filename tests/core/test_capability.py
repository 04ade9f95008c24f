"""EHLO: what the downstream can do, less what would change the dialogue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.capability import NOTHING, Capabilities, ehlo_reply, parse_ehlo
from gateway.core.reply import Reply
from gateway.core.tag import ALLOWANCE_OCTETS

_POSTFIX = Reply(
    250,
    b"250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-VRFY\r\n250-ETRN\r\n"
    b"250-STARTTLS\r\n250-AUTH PLAIN LOGIN\r\n250-AUTH=PLAIN\r\n"
    b"250-XCLIENT NAME ADDR PROTO HELO\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n"
    b"250-SMTPUTF8\r\n250 CHUNKING\r\n",
)


def told(downstream: Capabilities, *own: str, max_size_octets: int = 50_000_000) -> list[bytes]:
    answer = ehlo_reply("gw.example", downstream, max_size_octets=max_size_octets, own=own)
    assert answer.code == 250
    return list(answer.lines)


def test_what_postfix_offers() -> None:
    offered = parse_ehlo(_POSTFIX)
    assert offered.has("XCLIENT")
    assert offered.parameters("XCLIENT") == "NAME ADDR PROTO HELO"
    assert offered.parameters("DSN") == ""
    assert not offered.has("MX.EXAMPLE.ORG"), "the first line is a name"
    assert not offered.has("LIMITS")
    assert offered.parameters("LIMITS") == ""


def test_what_we_tell_of_it() -> None:
    """P5: nothing that logs in, changes identities or ends a line elsewhere."""
    assert told(parse_ehlo(_POSTFIX), "STARTTLS", "XFORWARD ADDR") == [
        b"gw.example",
        b"PIPELINING",
        b"SIZE %d" % (10_240_000 - ALLOWANCE_OCTETS),
        b"ENHANCEDSTATUSCODES",
        b"8BITMIME",
        b"DSN",
        b"SMTPUTF8",
        b"STARTTLS",
        b"XFORWARD ADDR",
    ]


def test_what_we_tell_of_nothing() -> None:
    assert told(NOTHING) == [b"gw.example"]


SIZES = [
    ("10240000", 50_000_000, 10_240_000 - ALLOWANCE_OCTETS, "the downstream's is smaller"),
    ("99999999", 50_000_000, 50_000_000, "ours is smaller"),
    ("0", 50_000_000, 50_000_000, "RFC 1870 section 4: no fixed limit"),
    ("", 50_000_000, 50_000_000, "no number"),
    ("lots", 50_000_000, 50_000_000, "nonsense"),
    ("1" * 21, 50_000_000, 50_000_000, "more digits than may be"),
    ("100", 50_000_000, 1, "too small to add anything; 0 would mean no limit"),
]


@pytest.mark.parametrize(("offered", "ours", "size", "reason"), SIZES, ids=[r[3] for r in SIZES])
def test_size(offered: str, ours: int, size: int, reason: str) -> None:
    lines = told(Capabilities((("SIZE", offered),)), max_size_octets=ours)
    assert lines[1:] == [b"SIZE %d" % size], reason


def test_keywords_in_any_case_and_odd_blanks() -> None:
    offered = parse_ehlo(Reply(250, b"250-x\r\n250-dsn  a b \r\n250-\r\n250 Limits RCPTMAX=9\r\n"))
    assert offered == Capabilities((("DSN", "a b"), ("LIMITS", "RCPTMAX=9")))
    assert told(offered) == [b"gw.example", b"DSN a b", b"LIMITS RCPTMAX=9"]


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_any_downstream_can_be_mirrored(texts: list[bytes]) -> None:
    """8-bit and control characters are left out: our replies are printable ASCII."""
    clean = [text.translate(None, b"\r\n\0") for text in texts]
    wire = b"".join(b"250-%b\r\n" % text for text in clean) + b"250 DSN \xff\r\n"
    assert b"DSN" not in told(parse_ehlo(Reply(250, wire)))[-1:]
