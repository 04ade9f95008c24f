"""The client's identity: handed on whole, or not at all (P5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.handover import (
    PROXY_LOCAL_HEADER,
    Client,
    proxy_header,
    xclient_command,
    xforward_commands,
    xtext,
)

_ALL = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "DESTADDR", "DESTPORT", "LOGIN", "SOURCE")
_CLIENT = Client("192.0.2.7", 4711, "c.example.org", "c.example", True, "198.51.100.1", 25)

XCLIENTS = [
    # realistic
    (
        _CLIENT,
        _ALL,
        (
            b"XCLIENT NAME=c.example.org ADDR=192.0.2.7 PORT=4711 PROTO=ESMTP HELO=c.example "
            b"DESTADDR=198.51.100.1 DESTPORT=25\r\n"
        ),
        "all that there is",
    ),
    (
        _CLIENT,
        (),
        b"XCLIENT NAME=c.example.org ADDR=192.0.2.7\r\n",
        "name and address whatever is offered",
    ),
    (
        Client("2001:db8::1", 1),
        ("PORT",),
        b"XCLIENT NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::1 PORT=1\r\n",
        "IPv6",
    ),
    (
        Client("::ffff:192.0.2.7", 1, is_extended=False),
        ("PROTO",),
        b"XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7 PROTO=SMTP\r\n",
        "IPv4 on an IPv6 socket, HELO",
    ),
    (
        Client(),
        ("PORT", "HELO", "DESTADDR", "DESTPORT"),
        (
            b"XCLIENT NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE] HELO=[UNAVAILABLE] "
            b"DESTADDR=[UNAVAILABLE] DESTPORT=[UNAVAILABLE]\r\n"
        ),
        "a unix socket",
    ),
    (
        Client("192.0.2.7", name="[TEMPUNAVAIL]"),
        (),
        b"XCLIENT NAME=[TEMPUNAVAIL] ADDR=192.0.2.7\r\n",
        "the name could not be looked up",
    ),
    (Client("192.0.2.7", name=""), (), b"XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7\r\n", "no name"),
    # attacks
    (
        Client("192.0.2.7", helo="x ADDR=127.0.0.1"),
        ("HELO",),
        b"XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7 HELO=x+20ADDR+3D127.0.0.1\r\n",
        "an attribute in HELO",
    ),
    (
        Client("192.0.2.7", helo="x\r\nMAIL FROM:<>"),
        ("HELO",),
        b"XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7 HELO=x+0D+0AMAIL+20FROM:<>\r\n",
        "a command in HELO",
    ),
    (
        Client("192.0.2.7", helo="\u20ac" * 300),
        ("HELO",),
        b"XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7 HELO=[UNAVAILABLE]\r\n",
        "HELO longer than a value may be",
    ),
]


@pytest.mark.parametrize(
    ("client", "offered", "line", "reason"), XCLIENTS, ids=[r[3] for r in XCLIENTS]
)
def test_xclient(client: Client, offered: tuple[str, ...], line: bytes, reason: str) -> None:
    assert xclient_command(client, offered) == line, reason


def test_longest_values_share_one_line() -> None:
    """RFC 5321 section 4.5.3.1.4; the address is never the one that is left out."""
    client = Client("2001:db8::1", 65535, "n" * 255, "h" * 255, True, "2001:db8::2", 65535)
    line = xclient_command(client, _ALL)
    assert len(line) <= 512
    assert b" ADDR=IPV6:2001:db8::1 " in line
    assert line.count(b"[UNAVAILABLE]") == 1


_TEXT = st.text(st.characters(max_codepoint=0x2FF), max_size=300)


@given(_TEXT, _TEXT)
def test_nothing_a_client_says_gets_out_of_its_value(name: str, helo: str) -> None:
    """P5: whatever it says, the downstream reads our attributes and one line."""
    line = xclient_command(Client("192.0.2.7", 1, name, helo), _ALL)
    assert len(line) <= 512
    assert line.endswith(b"\r\n")
    assert line[:-2].isascii()
    verb, *attributes = line[:-2].split(b" ")
    assert verb == b"XCLIENT"
    values = dict(attribute.split(b"=") for attribute in attributes)
    assert set(values) == {b"NAME", b"ADDR", b"PORT", b"PROTO", b"HELO", b"DESTADDR", b"DESTPORT"}
    assert values[b"ADDR"] == b"192.0.2.7"


def test_xforward_of_what_we_see() -> None:
    offered = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "SOURCE")
    assert xforward_commands(_CLIENT, offered) == [
        (
            b"XFORWARD NAME=c.example.org ADDR=192.0.2.7 PORT=4711 PROTO=ESMTP HELO=c.example "
            b"SOURCE=REMOTE\r\n"
        )
    ]
    assert xforward_commands(Client(name="", is_extended=False), offered) == [
        (
            b"XFORWARD NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE] PROTO=SMTP "
            b"HELO=[UNAVAILABLE] SOURCE=REMOTE\r\n"
        )
    ]


def test_xforward_of_what_was_forwarded_to_us() -> None:
    client = Client("192.0.2.7", forwarded=(("ADDR", "203.0.113.9"), ("IDENT", "4ABC")))
    assert xforward_commands(client, ("ADDR", "IDENT", "NAME")) == [
        b"XFORWARD ADDR=203.0.113.9 IDENT=4ABC\r\n"
    ]


def test_xforward_of_nothing_that_is_offered() -> None:
    assert xforward_commands(_CLIENT, ()) == []


def test_xforward_takes_several_lines() -> None:
    forwarded = tuple((name, name[0] * 250) for name in ("NAME", "HELO", "IDENT"))
    lines = xforward_commands(Client(forwarded=forwarded), ("NAME", "HELO", "IDENT"))
    assert len(lines) == 3
    assert all(line.startswith(b"XFORWARD ") and len(line) <= 512 for line in lines)


_V4, _V4_HERE = bytes([192, 0, 2, 7]), bytes([198, 51, 100, 1])
_MAPPED = b"\0" * 10 + b"\xff\xff"
_START = b"\r\n\r\n\0\r\nQUIT\n"

PROXIES = [
    # realistic
    (
        _CLIENT,
        b"\x21\x11\x00\x0c" + _V4 + _V4_HERE + b"\x12\x67\x00\x19",
        "IPv4",
    ),
    (
        Client("2001:db8::1", 4711, local_address="2001:db8::2", local_port=25),
        b"\x21\x21\x00\x24"
        + bytes.fromhex("20010db8000000000000000000000001")
        + bytes.fromhex("20010db8000000000000000000000002")
        + b"\x12\x67\x00\x19",
        "IPv6",
    ),
    (
        Client("::ffff:192.0.2.7", 4711, local_address="::ffff:198.51.100.1", local_port=25),
        b"\x21\x11\x00\x0c" + _V4 + _V4_HERE + b"\x12\x67\x00\x19",
        "IPv4 on an IPv6 socket",
    ),
    # synthetic
    (
        Client("192.0.2.7", 4711, local_address="2001:db8::2", local_port=25),
        b"\x21\x21\x00\x24"
        + _MAPPED
        + _V4
        + bytes.fromhex("20010db8000000000000000000000002")
        + b"\x12\x67\x00\x19",
        "one of each",
    ),
    (
        Client("192.0.2.7", 4711),
        b"\x21\x11\x00\x0c" + _V4 + bytes([127, 0, 0, 1]) + b"\x12\x67\x00\x00",
        "our own address is not known",
    ),
    (
        Client("2001:db8::1", 4711),
        b"\x21\x21\x00\x24"
        + bytes.fromhex("20010db8000000000000000000000001")
        + bytes(15)
        + b"\x01\x12\x67\x00\x00",
        "nor an IPv6 one",
    ),
]


@pytest.mark.parametrize(("client", "rest", "reason"), PROXIES, ids=[row[2] for row in PROXIES])
def test_proxy_header(client: Client, rest: bytes, reason: str) -> None:
    assert proxy_header(client) == _START + rest, reason


def test_no_address_no_proxy_header() -> None:
    """P5: whoever asks must not go on without one."""
    assert proxy_header(Client()) is None
    assert proxy_header(Client("[UNAVAILABLE]")) is None


def test_header_for_connections_of_our_own() -> None:
    assert PROXY_LOCAL_HEADER == _START + b"\x20\x00\x00\x00"


def test_xtext() -> None:
    assert xtext("a+b=c d\x7f\xe9") == b"a+2Bb+3Dc+20d+7F+E9"
    assert xtext("\u20ac") == b"?"
