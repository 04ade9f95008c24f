"""XFORWARD towards us: read from those whom the postmaster named, and never past one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.handover import xtext
from gateway.core.xforward import NAMES, address_in, parse_xforward, port_in, told

READ = [
    # realistic
    (
        b"NAME=c.example ADDR=192.0.2.7 PORT=25 PROTO=ESMTP HELO=x SOURCE=REMOTE",
        {
            "NAME": "c.example",
            "ADDR": "192.0.2.7",
            "PORT": "25",
            "PROTO": "ESMTP",
            "HELO": "x",
            "SOURCE": "REMOTE",
        },
        "what Postfix sends",
    ),
    (b"addr=192.0.2.7", {"ADDR": "192.0.2.7"}, "names in any case"),
    (b"HELO=a+2Bb+20c", {"HELO": "a+b c"}, "xtext"),
    (b"ADDR=[UNAVAILABLE]", {"ADDR": "[UNAVAILABLE]"}, "not known"),
    # synthetic
    (b"HELO=a=b", {"HELO": "a=b"}, "an equals sign in a value"),
    (b"HELO=a+b", {"HELO": "a+b"}, "no escape after all"),
    (b"HELO=a HELO=b", {"HELO": "b"}, "twice: the last counts"),
    (b"", None, "nothing"),
    (b"ADDR", None, "no value"),
    (b"ADDR=", None, "an empty value"),
    (b"LOGIN=joe", None, "an attribute that is none of XFORWARD"),
    (b"ADDR=192.0.2.7 BOGUS=1", None, "one that is unknown spoils all"),
    (b"HELO=\xe9", None, "8-bit"),
    (b"HELO=" + b"x" * 256, None, "too long"),
]


@pytest.mark.parametrize(("argument", "expected", "reason"), READ, ids=[row[2] for row in READ])
def test_parse(argument: bytes, expected: dict[str, str] | None, reason: str) -> None:
    assert parse_xforward(argument) == expected, reason


@given(st.binary(max_size=80))
def test_any_octets_are_attributes_or_none(argument: bytes) -> None:
    values = parse_xforward(argument)
    assert values is None or set(values) <= set(NAMES)


@given(st.text(st.characters(max_codepoint=255), min_size=1, max_size=60))
def test_what_we_send_can_be_read(value: str) -> None:
    assert parse_xforward(b"HELO=" + xtext(value)) == {"HELO": value}


@pytest.mark.parametrize(
    ("value", "address", "reason"),
    [
        ("192.0.2.7", "192.0.2.7", "IPv4"),
        ("IPV6:2001:db8::1", "2001:db8::1", "IPv6 as Postfix writes it"),
        ("ipv6:2001:DB8::1", "2001:db8::1", "in any case"),
        ("2001:db8::1", "2001:db8::1", "without prefix"),
        ("IPV6:::ffff:192.0.2.7", "192.0.2.7", "IPv4 in IPv6"),
        ("[UNAVAILABLE]", "", "not known"),
        ("localhost", "", "no address"),
    ],
)
def test_address(value: str, address: str, reason: str) -> None:
    assert address_in({"ADDR": value}) == address, reason


def test_no_address() -> None:
    assert address_in({}) == ""


@pytest.mark.parametrize(
    ("values", "port", "reason"),
    [
        ({"PORT": "4711"}, 4711, "a port"),
        ({"PORT": "[UNAVAILABLE]"}, 0, "not known"),
        ({"PORT": "65536"}, 0, "no port"),
        ({}, 0, "not told"),
    ],
)
def test_port(values: dict[str, str], port: int, reason: str) -> None:
    assert port_in(values) == port, reason


@pytest.mark.parametrize(
    ("value", "expected"), [("x", "x"), ("[UNAVAILABLE]", ""), ("[TEMPUNAVAIL]", "")]
)
def test_told(value: str, expected: str) -> None:
    assert told({"NAME": value}, "NAME") == expected
    assert told({}, "NAME") == ""
