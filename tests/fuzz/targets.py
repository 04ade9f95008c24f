"""What hostile octets meet: each parser of the wire, with what must hold whatever comes.

A target takes octets and returns nothing. The exceptions that a parser documents are part of its
answer; any other one, and any assertion that fails, is a find.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import cast

from gateway.core import answer
from gateway.core.capability import Capabilities, ehlo_reply, parse_ehlo
from gateway.core.content import ContentScanner, stuffed, unstuffed
from gateway.core.edition import EditionSettings
from gateway.core.envelope import normalized, parse_path
from gateway.core.handover import Client, proxy_header, xclient_command, xforward_commands
from gateway.core.header import header_length, without
from gateway.core.policy import examine
from gateway.core.reply import Reply, enhanced_of, single_reply, take_reply
from gateway.core.report import Keep, Report
from gateway.core.rule import address_of
from gateway.core.unique_id import Sealer
from gateway.core.xforward import NAMES, parse_xforward
from gateway.desk import Desk, RelaySettings
from gateway.edge.tracking_memory import MemoryTrackingList
from gateway.errors import ClientError
from gateway.faces import milter_wire
from gateway.faces.smtp import SmtpSession
from gateway.faces.smtp_input import Input
from gateway.faces.smtp_origin import behind_proxy
from gateway.faces.smtp_reception import Reception, SmtpSettings
from gateway.ports import Admission, Downstream
from gateway.screening import Screening, ScreeningSettings

PAUSE = b"\xff\xff"
"""In a conversation: what follows comes later."""

Target = Callable[[bytes], None]
_REPLY_OCTETS = 1024
_OK = answer.OK
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")


class _Server:
    """A downstream that takes everything, and looks at each octet."""

    waited_s = 0.0

    def __init__(self) -> None:
        self._content = b"\r\n"

    async def exchange(self, commands: Sequence[bytes]) -> Sequence[Reply]:
        for command in commands:
            assert command.endswith(b"\r\n"), command
            assert _BARE.search(command) is None, command
            assert command.count(b"\r\n") == 1, command
        self._content = b"\r\n"
        return [answer.SEND_CONTENT if c == b"DATA\r\n" else _OK for c in commands]

    async def write(self, content: bytes) -> None:
        self._content += content
        assert b"\r\n.\r\n" not in self._content, "content that ends before its end"

    async def finish(self, recipients: int) -> Sequence[Reply]:
        assert recipients > 0
        assert _BARE.search(self._content) is None, self._content
        assert self._content.endswith(b"\r\n"), self._content
        return [_OK]

    async def close(self, *, politely: bool) -> None:
        del politely


class _World:
    """Journal, meter and census of a session; they hold nothing."""

    def record(self, report: Report) -> None:
        assert len(report.outcomes) >= 1

    def complain(self, event: str, reason: str) -> None:
        raise AssertionError(f"{event}: {reason}")

    def enter(self, address: str) -> Admission:
        del address
        return Admission.ADMITTED

    def leave(self, address: str) -> None:
        del address

    def session_began(self) -> None: ...

    def session_ended(self, *, is_tls: bool, result: str) -> None:
        assert (is_tls, result in ("ok", "lost", "timeout", "refused", "error")) == (False, True)

    def protocol_error(self, kind: str) -> None:
        assert kind


class _Transport:
    """A client that reads everything."""

    def __init__(self) -> None:
        self.written = bytearray()
        self._is_closing = False

    def write(self, octets: bytes) -> None:
        self.written += octets

    def get_extra_info(self, name: str) -> object:
        return {"peername": ("192.0.2.7", 40_000), "sockname": ("192.0.2.1", 25)}.get(name)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def _open(client: Client) -> Downstream:
    assert client.address == "192.0.2.7"
    return _Server()


def _reception() -> Reception:
    world = _World()
    settings = SmtpSettings(
        hostname="gateway.test",
        clients=(),
        proxy_protocol=(),
        xforward=(),
        tls=None,
        is_tls_required=False,
        message_size_octets=2000,
        recipients=5,
        idle_timeout_s=60.0,
        errors=20,
    )
    screening = Screening(
        MemoryTrackingList(), Sealer(b""), ScreeningSettings(in_flight_wait_s=0.0)
    )
    relaying = RelaySettings(
        EditionSettings("gateway.test", "gateway.test"), 1000, 10, 60, Keep.ALL
    )
    desk = Desk(_open, screening, world, relaying)
    return Reception(
        settings,
        current_desk=lambda: desk,
        capabilities=lambda: Capabilities((("PIPELINING", ""), ("SIZE", "1000"))),
        journal=world,
        meter=world,
        census=world,
    )


async def _converse(octets: bytes) -> bytes:
    """Send octets in pieces of a client's own choice; return all replies."""
    loop = asyncio.get_running_loop()
    session = SmtpSession(_reception(), loop)
    transport = _Transport()
    session.connection_made(cast("asyncio.Transport", transport))
    # The first piece comes before the banner: one more thing that a client may do wrong.
    for number, piece in enumerate(octets.split(PAUSE)):
        if piece or number:
            session.data_received(piece)
        for _ in range(5):
            await asyncio.sleep(0)
    session.eof_received()
    task = session._handler_coroutine
    assert task is not None
    await asyncio.wait_for(task, 20)
    session.connection_lost(None)
    return bytes(transport.written)


_LOOP = asyncio.new_event_loop()


def smtp(octets: bytes) -> None:
    """Converse: every reply is whole, none is about a bug, and the server sees clean lines only."""
    said = bytearray(_LOOP.run_until_complete(_converse(octets)))
    assert answer.BUG.wire not in said
    while said:
        assert take_reply(said, 10_000) is not None, said


def path(octets: bytes) -> None:
    """Read the argument of MAIL or RCPT."""
    argument = parse_path(octets)
    if argument is not None:
        assert argument.path in octets
        normalized(argument.path)
        assert (argument.size_octets or 0) >= 0


def proxy(octets: bytes) -> None:
    """Read a PROXY header; whatever it is, a client, none, or a client's fault."""

    async def run() -> Client | None:
        source = Input(_LOOP, lambda: None)
        source.feed(octets)
        source.end()
        try:
            with suppress(ClientError):
                return await behind_proxy(Client(address="192.0.2.7"), source)
            return None
        finally:
            source.close()

    client = _LOOP.run_until_complete(run())
    if client is not None and client.address:
        assert address_of(client.address) is not None
        assert 0 <= client.port < 65_536
        assert proxy_header(client) is not None


def header(octets: bytes) -> None:
    """Examine a header section, and take our forged fields out of it."""
    length = header_length(octets)
    assert length is None or 0 <= length <= len(octets)
    section = octets if length is None else octets[:length]
    for is_whole in (False, True):
        seen = examine(section, is_whole=is_whole)
        bare = without(section, seen.forged)
        assert not examine(bare, is_whole=is_whole).forged
        assert section.endswith(seen.stray)
    if b"\r" not in section.replace(b"\r\n", b"") and b"\n" not in section.replace(b"\r\n", b""):
        assert unstuffed(stuffed(section)) == section


def reply(octets: bytes) -> None:
    """Read a downstream's replies: as many as there are, whole ones, or `ValueError`."""
    single = single_reply(octets)
    buffer = bytearray(octets)
    with suppress(ValueError):
        first = take_reply(buffer, _REPLY_OCTETS)
        if single is not None:
            assert first == single
        while first is not None:
            assert 200 <= first.code <= 599
            assert re.fullmatch(rb"(?:[2-5]\d\d[^\r\n\0]*\r\n)+", first.wire), first.wire
            enhanced_of(first)
            said = ehlo_reply("gateway.test", parse_ehlo(first), max_size_octets=10, own=[])
            assert take_reply(bytearray(said.wire), 1 << 20) == said
            first = take_reply(buffer, _REPLY_OCTETS)
        assert len(buffer) <= _REPLY_OCTETS


def content(octets: bytes) -> None:
    """Find the end of content cut anywhere, where one look at the whole finds it."""
    size = octets[0] % 7 + 1 if octets else 1
    stream = octets[1:]
    scanner = ContentScanner()
    taken = rest = b""
    for start in range(0, len(stream), size):
        taken += scanner.feed(stream[start : start + size])
        if scanner.is_complete:
            rest = scanner.rest + stream[start + size :]
            break
    whole = b"\r\n" + stream
    end = whole.find(b"\r\n.\r\n")
    assert scanner.is_complete == (end >= 0)
    if end >= 0:
        assert (taken, rest) == (stream[:end], whole[end + 5 :])
        assert bool(scanner.violation) == (_BARE.search(taken) is not None)
    unstuffed(taken)


def milter(octets: bytes) -> None:
    """Read milter packets, and each payload as every kind of packet; or `WireError`."""
    reader = milter_wire.PacketReader()
    packets: list[tuple[int, bytes]] = []
    with suppress(milter_wire.WireError):
        for start in range(0, len(octets), 5):
            packets += reader.feed(octets[start : start + 5])
        assert reader.held_octets <= len(octets)
    for payload in [octets, *(payload for _, payload in packets)]:
        for parse in (
            milter_wire.parse_strings,
            milter_wire.parse_negotiation,
            milter_wire.parse_connection,
            milter_wire.parse_macros,
        ):
            with suppress(milter_wire.WireError):
                parse(payload)
        with suppress(milter_wire.WireError):
            milter_wire.parse_fields([payload], has_leading_space=True)


def xforward(octets: bytes) -> None:
    """Take XFORWARD values over and tell them on: each line is one line, of bounded length."""
    values = parse_xforward(octets) or {}
    name = octets.decode("latin-1")
    client = Client("2001:db8::7", 25, name, name, forwarded=tuple(values.items()))
    lines = [*xforward_commands(client, NAMES), xclient_command(client, (*NAMES, "DESTADDR"))]
    for line in lines:
        assert re.fullmatch(rb"[!-~ ]{1,510}\r\n", line), line


TARGETS: Mapping[str, Target] = {
    "smtp": smtp,
    "path": path,
    "proxy": proxy,
    "header": header,
    "reply": reply,
    "content": content,
    "milter": milter,
    "xforward": xforward,
}
