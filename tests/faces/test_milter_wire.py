"""The milter protocol as octets: every cut, every length, both versions of a field."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import answer
from gateway.core.reply import reply
from gateway.faces import milter_wire as wire
from gateway.faces.milter_wire import Event, Negotiation, PacketReader, Request, Stage, Step

_PACKETS = st.lists(
    st.tuples(st.sampled_from([int(event) for event in Event]), st.binary(max_size=300)),
    max_size=12,
)
_TEXT = st.binary(max_size=60).map(lambda octets: octets.replace(b"\0", b"."))
_REAL = [
    (Event.NEGOTIATE, struct.pack("!III", 6, 0x1FF, 0x1FFFFF)),
    (Event.MACRO, b"Cj\0mx.example.org\0{daemon_name}\0smtpd\0"),
    (Event.CONNECT, b"mail.example.com\x004\x9a\x13192.0.2.1\0"),
    (Event.HELO, b"mail.example.com\0"),
    (Event.MAIL, b"<a@example.com>\0SIZE=12\0"),
    (Event.RCPT, b"<b@example.net>\0"),
    (Event.HEADER, b"Subject\0 hello\n\tworld\0"),
    (Event.BODY, b"x" * 65_535),
    (Event.END_OF_MESSAGE, b""),
    (Event.QUIT, b""),
]


def _stream(packets: list[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack("!IB", len(p) + 1, c) + p for c, p in packets)


@given(_PACKETS)
def test_whole_stream_gives_every_packet(packets: list[tuple[int, bytes]]) -> None:
    reader = PacketReader()
    assert reader.feed(_stream(packets)) == packets
    assert reader.held_octets == 0


@given(_PACKETS)
def test_octet_by_octet_gives_every_packet(packets: list[tuple[int, bytes]]) -> None:
    reader, got = PacketReader(), []
    for octet in _stream(packets):
        got += reader.feed(bytes((octet,)))
    assert got == packets


@given(_PACKETS, st.randoms(use_true_random=False))
def test_any_cut_gives_every_packet(
    packets: list[tuple[int, bytes]], chance: random.Random
) -> None:
    stream, reader, got, at = _stream(packets), PacketReader(), [], 0
    while at < len(stream):
        step = chance.choice([1, 2, 5, 40, 1000])
        got += reader.feed(stream[at : at + step])
        at += step
    assert got == packets


@given(_PACKETS, st.binary(min_size=1, max_size=4))
def test_trailing_octets_wait_for_their_packet(
    packets: list[tuple[int, bytes]], tail: bytes
) -> None:
    reader = PacketReader()
    assert reader.feed(_stream(packets) + tail) == packets
    assert reader.held_octets == len(tail)


def test_real_packets_cut_in_the_middle_of_a_length() -> None:
    stream = _stream([(int(c), p) for c, p in _REAL])
    for cut in range(1, 60):
        reader = PacketReader()
        assert reader.feed(stream[:cut]) + reader.feed(stream[cut:]) == _REAL


@pytest.mark.parametrize(
    "length",
    [
        pytest.param(0, id="no command"),
        pytest.param(wire.MAX_PACKET_OCTETS + 1, id="one too many (P8)"),
        pytest.param(0xFFFFFFFF, id="all ones (P8)"),
    ],
)
def test_length_out_of_bounds_is_refused_before_it_is_waited_for(length: int) -> None:
    reader = PacketReader()
    with pytest.raises(wire.WireError):
        reader.feed(struct.pack("!IB", length, Event.BODY))


def test_longest_packet_is_taken() -> None:
    payload = bytes(wire.MAX_PACKET_OCTETS - 1)
    reader, got = PacketReader(), []
    stream = _stream([(Event.HEADER, payload)])
    for at in range(0, len(stream), 4096):
        got += reader.feed(stream[at : at + 4096])
    assert got == [(Event.HEADER, payload)]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "nothing"),
        (b"Subject", "no string ends"),
        (b"Subject\0", "no body"),
        (b"Subject\0hi", "the body does not end"),
        (b"Subject\0hi\0there", "the second string is not the last"),
        (b"Subject\0hi\0\0", "three strings"),
        (b"a\0b\0c\0d\0", "two fields in one"),
    ],
)
def test_what_is_not_two_strings_is_no_field(payload: bytes, reason: str) -> None:
    with pytest.raises(wire.WireError, match="not a header field"):
        wire.parse_fields([b"To\0a\0", payload, b"Cc\0b\0"], has_leading_space=True)
    assert reason


@given(st.binary(max_size=400))
def test_parsers_fail_in_one_way_only(payload: bytes) -> None:
    for parse in (
        wire.parse_strings,
        wire.parse_negotiation,
        wire.parse_connection,
        wire.parse_macros,
        lambda octets: wire.parse_fields([octets], has_leading_space=True),
        lambda octets: wire.parse_fields([octets, b"To\0a\0"], has_leading_space=False),
        PacketReader().feed,
    ):
        try:
            parse(payload)
        except wire.WireError:
            continue


@given(st.lists(_TEXT, min_size=1, max_size=5))
def test_strings_come_back(values: list[bytes]) -> None:
    assert wire.parse_strings(wire.strings(*values)) == tuple(values)


def test_a_nul_cannot_smuggle_a_string_in() -> None:
    assert wire.strings(b"X\0Bcc", b"y") == b"X\0y\0"


@pytest.mark.parametrize(
    ("payload", "name", "address", "port"),
    [
        pytest.param(b"mx.test\x004\x9a\x13192.0.2.1\0", "mx.test", "192.0.2.1", 39443, id="IPv4"),
        pytest.param(
            b"[::1]\x006\x00\x19::1\0", "[::1]", "::1", 25, id="IPv6 as Postfix writes it"
        ),
        pytest.param(
            b"[::1]\x006\x00\x19IPv6:::1\0", "[::1]", "::1", 25, id="IPv6 as Sendmail writes it"
        ),
        pytest.param(b"localhost\0L\0\0/run/x\0", "localhost", "", 0, id="unix: no address"),
        pytest.param(b"unknown\0U", "unknown", "", 0, id="unknown: nothing follows"),
    ],
)
def test_connection(payload: bytes, name: str, address: str, port: int) -> None:
    assert wire.parse_connection(payload) == wire.Connection(name, address, port)


def test_macros_lose_their_braces() -> None:
    event, macros = wire.parse_macros(b"Ei\x004ABC\0{client_addr}\x00192.0.2.1\0")
    assert event == Event.END_OF_MESSAGE
    assert macros == {b"i": b"4ABC", b"client_addr": b"192.0.2.1"}


def test_no_macros() -> None:
    assert wire.parse_macros(b"E") == (Event.END_OF_MESSAGE, {})


_FIELDS = [
    pytest.param(b"Subject: hi\r\n", id="plain"),
    pytest.param(b"Subject:hi\r\n", id="no blank"),
    pytest.param(b"Subject:  hi\r\n", id="two blanks"),
    pytest.param(b"Subject:\thi\r\n", id="tab: servers eat blanks only"),
    pytest.param(b"Subject: hi\r\n\tthere\r\n  you\r\n", id="folded"),
    pytest.param(b"Subject:\r\n hi\r\n", id="folded at once"),
    pytest.param(b"Subject:\r\n", id="empty"),
    pytest.param(b"Subject: \xff\xfe\r\n", id="no ASCII"),
]


@pytest.mark.parametrize("field", _FIELDS)
def test_field_with_leading_space_comes_back_octet_for_octet(field: bytes) -> None:
    name, _, body = field.removesuffix(b"\r\n").partition(b":")
    payload = name + b"\0" + body.replace(b"\r\n", b"\n") + b"\0"
    names, (read,), octets = wire.parse_fields([payload], has_leading_space=True)
    assert (names, read, octets) == ([name.lower()], body, len(field))


@pytest.mark.parametrize("field", _FIELDS)
def test_field_without_leading_space_differs_in_blanks_only(field: bytes) -> None:
    name, _, body = field.removesuffix(b"\r\n").partition(b":")
    payload = name + b"\0" + body.removeprefix(b" ").replace(b"\r\n", b"\n") + b"\0"
    names, (back,), _ = wire.parse_fields([payload], has_leading_space=False)
    assert names == [b"subject"]
    assert back.split() == body.split()
    assert back[:1] == b" "


_ROWS = [
    pytest.param([b"To\0 a\0", b"X-A\0 b\0"], [(b"to", b" a"), (b"x-a", b" b")], id="two"),
    pytest.param([b"Subject \t\0 a\0"], [(b"subject", b" a")], id="blanks before the colon"),
    pytest.param([b"A b \0 a\0"], [(b"a b", b" a")], id="a blank in the name stays"),
    pytest.param([b"\0 a\0", b"To\0\0"], [(b"", b" a"), (b"to", b"")], id="nothing is something"),
    pytest.param([b"A\0 b\r\n\tc\n d\0"], [(b"a", b" b\r\n\tc\r\n d")], id="both line ends"),
]


@pytest.mark.parametrize(("payloads", "fields"), _ROWS)
def test_fields_are_read_in_their_order(
    payloads: list[bytes], fields: list[tuple[bytes, bytes]]
) -> None:
    names, bodies, octets = wire.parse_fields(payloads, has_leading_space=True)
    assert list(zip(names, bodies, strict=True)) == fields
    assert octets == sum(len(name) + len(body) + len(b":\r\n") for name, body in fields) + _lost(
        payloads
    )


def _lost(payloads: list[bytes]) -> int:
    """Count the blanks before colons, which belong to the message and to no name."""
    names = [payload.partition(b"\0")[0] for payload in payloads]
    return sum(len(name) - len(name.rstrip(b" \t")) for name in names)


def test_agreement_is_what_both_can() -> None:
    offered = Negotiation(4, 0xFF, int(Step.NO_HELO | Step.NO_REPLY_HEADER))
    agreed = wire.agree(
        offered,
        Request.ADD_HEADERS | Request.SET_MACRO_LISTS,
        Step.NO_REPLY_HEADER | Step.NO_REPLY_BODY,
    )
    assert agreed == Negotiation(4, Request.ADD_HEADERS, Step.NO_REPLY_HEADER)
    assert Event.BODY in agreed.answered
    assert Event.HEADER not in agreed.answered


def test_newer_server_is_met_at_our_version() -> None:
    assert wire.agree(Negotiation(7, 0xFFFF, 0xFFFFFF), Request(0), Step(0)).version == wire.VERSION


@pytest.mark.parametrize(
    "offered",
    [
        pytest.param(Negotiation(1, 0x1FF, 0), id="version 1"),
        pytest.param(Negotiation(6, 0x1FF & ~0x8, 0), id="no recipient may be removed"),
    ],
)
def test_what_we_need_is_no_matter_of_negotiation(offered: Negotiation) -> None:
    with pytest.raises(wire.WireError):
        wire.agree(offered, Request.DELETE_RECIPIENTS, Step(0))


def test_macro_lists_only_for_a_server_that_takes_them() -> None:
    macros = {Stage.END_OF_MESSAGE: b"i"}
    with_lists = wire.negotiated(Negotiation(6, Request.SET_MACRO_LISTS, 0), macros)
    assert with_lists == b"\0\0\0\x13O" + struct.pack("!III", 6, 0x100, 0) + b"\0\0\0\x05i\0"
    without = wire.negotiated(Negotiation(6, 0, 0), macros)
    assert without == b"\0\0\0\x0dO" + struct.pack("!III", 6, 0, 0)


def test_inserted_field_keeps_its_blank_where_blanks_are_kept() -> None:
    field = b"X-Mailonce: duplicate; copies=2\r\n"
    spaced = wire.insert_field(field, has_leading_space=True)
    assert spaced.endswith(b"i\0\0\0\0X-Mailonce\0 duplicate; copies=2\0")
    bare = wire.insert_field(field, has_leading_space=False)
    assert bare.endswith(b"i\0\0\0\0X-Mailonce\0duplicate; copies=2\0")


@pytest.mark.parametrize(
    ("packet", "octets"),
    [
        pytest.param(wire.CONTINUE, b"\0\0\0\x01c", id="continue"),
        pytest.param(wire.DISCARD, b"\0\0\0\x01d", id="discard"),
        pytest.param(
            wire.delete_recipient(b"<b@example.net>"),
            b"\0\0\0\x11-<b@example.net>\0",
            id="recipient as given",
        ),
        pytest.param(
            wire.delete_field(b"X-A", 2), b"\0\0\0\x0am\0\0\0\x02X-A\0\0", id="second field"
        ),
        pytest.param(
            wire.reply_code(reply(451, "4.3.0", "100% busy")),
            b"\0\0\0\x16y451 4.3.0 100%% busy\0",
            id="percent signs are formats to Sendmail",
        ),
    ],
)
def test_replies(packet: bytes, octets: bytes) -> None:
    assert packet == octets


def test_every_reply_of_ours_fits_into_a_packet() -> None:
    for own in (answer.IN_FLIGHT, answer.UNCHECKED, answer.BUG):
        [(command, payload)] = PacketReader().feed(wire.reply_code(own))
        assert chr(command) == "y"
        assert payload == own.wire.removesuffix(b"\r\n") + b"\0"
