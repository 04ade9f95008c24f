"""Sessions with recording servers: which one, in whose name, over TLS or not, and how they fail."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.core.capability import NOTHING
from gateway.core.handover import Client, HandOver
from gateway.edge.downstream import DownstreamConnector
from gateway.edge.downstream_session import DownstreamSession, ServerAddress, SessionSettings
from gateway.errors import (
    DownstreamError,
    IdentityError,
    LostError,
    UnprovenError,
    UnreachableError,
)
from gateway.ports import OpenDownstream
from tests.support.certificate import Pair, make_certificate
from tests.support.process import free_port, temporary_folder
from tests.support.recording import Answer, Then
from tests.support.sink import EXTENSIONS, Sink
from tests.support.tracking import eventually

CLIENT = Client(address="192.0.2.7", port=40_000, name="mail.client.test", helo="mail.client.test")
_PLAIN = Client(address="192.0.2.7", port=40_000, helo="old.client.test", is_extended=False)


_OPENED: list[DownstreamSession] = []


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    """Leave no connection behind."""
    yield
    while _OPENED:
        await _OPENED.pop().close(politely=False)
    for _ in range(3):  # the loop closes sockets in turns of its own
        await asyncio.sleep(0)


class _World:
    """What a connector is told, and what it tells."""

    def __init__(
        self,
        *servers: ServerAddress,
        hand_over: HandOver = HandOver.XCLIENT,
        tls: ssl.SSLContext | None = None,
        is_tls_required: bool = False,
        timeout_s: float = 30.0,
        command_timeout_s: float | None = None,
    ) -> None:
        self.observed: list[tuple[str, str]] = []
        self.health: list[bool] = []
        self.vetted = 0
        self.forbids: DownstreamError | None = None
        settings = SessionSettings(
            hand_over,
            "gateway.test",
            tls,
            is_tls_required,
            timeout_s,
            timeout_s if command_timeout_s is None else command_timeout_s,
            timeout_s,
        )
        self.connector = DownstreamConnector(
            servers,
            settings,
            lambda command, result, _: self.observed.append((command, result)),
            self.health.append,
            self._vet,
        )

    async def open(self, client: Client) -> DownstreamSession:
        """Open a session; it is closed after the test."""
        session = await self.connector.open(client)
        _OPENED.append(session)
        return session

    async def _vet(self, open_downstream: OpenDownstream) -> None:
        self.vetted += 1
        session = await open_downstream(CLIENT)
        await session.close(politely=False)
        if self.forbids is not None:
            raise self.forbids


def _tcp(sink: Sink, *, is_lmtp: bool = False) -> ServerAddress:
    return ServerAddress(is_lmtp, "127.0.0.1", sink.port)


@pytest.fixture
def sinks() -> Iterator[list[Sink]]:
    """Return three servers."""
    with ExitStack() as stack:
        yield [stack.enter_context(Sink()) for _ in range(3)]


async def _used(world: _World, sinks: list[Sink]) -> int:
    """Open a session; return which server took it."""
    before = [len(sink.sessions) for sink in sinks]
    await world.open(CLIENT)
    (index,) = [i for i, sink in enumerate(sinks) if len(sink.sessions) > before[i]]
    return index


async def test_servers_are_tried_in_order(sinks: list[Sink]) -> None:
    world = _World(*map(_tcp, sinks))
    await world.open(CLIENT)
    assert await _used(world, sinks) == 0
    sinks[0].refuse()
    sinks[1].refuse()
    await world.open(CLIENT)  # vetted at its first use
    assert await _used(world, sinks) == 2


async def test_a_dead_server_is_tried_last_for_a_while(
    sinks: list[Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])  # not the loop's, nor the sinks'
    monkeypatch.setattr("gateway.edge.downstream.time", clock)
    world = _World(*map(_tcp, sinks[:2]))
    sinks[0].refuse()
    await world.open(CLIENT)
    sinks[0].listen()
    sinks[0].forget()
    assert await _used(world, sinks) == 1, "shunned, though it is back"
    now[0] += 1.1
    await world.open(CLIENT)  # vetted at its first use
    assert await _used(world, sinks) == 0, "the backoff is over"
    for backoff_s in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
        sinks[0].refuse()
        await world.open(CLIENT)
        sinks[0].listen()
        now[0] += backoff_s - 0.1
        assert await _used(world, sinks) == 1, backoff_s
        now[0] += 0.2


async def test_if_all_are_shunned_all_are_tried(sinks: list[Sink]) -> None:
    world = _World(*map(_tcp, sinks[:2]))
    for sink in sinks[:2]:
        sink.refuse()
    with pytest.raises(UnreachableError) as failure:
        await world.open(CLIENT)
    assert all(str(sink.port) in str(failure.value) for sink in sinks[:2]), "both are named"
    sinks[1].listen()
    await world.open(CLIENT)
    assert world.health == [False, True]


async def test_a_server_that_greets_with_a_refusal_is_passed_over(sinks: list[Sink]) -> None:
    world = _World(*map(_tcp, sinks[:2]))
    sinks[0].answer("greeting", b"421 4.3.2 Too busy\r\n", always=True)
    await world.open(CLIENT)
    assert sinks[1].sessions
    assert world.observed[0] == ("connect", "4"), "its greeting is its reply to the connection"


async def test_each_server_is_vetted_before_its_first_session(sinks: list[Sink]) -> None:
    """P5: the second server may relay for strangers, though the first one does not."""
    world = _World(*map(_tcp, sinks[:2]))
    await world.open(CLIENT)
    await world.open(CLIENT)
    assert world.vetted == 1
    sinks[0].refuse()
    world.forbids = IdentityError("an open relay")
    for _ in range(2):
        with pytest.raises(IdentityError, match="open relay"):
            await world.open(CLIENT)
    assert not sinks[1].transactions
    world.forbids = None
    await world.open(CLIENT)
    assert world.vetted == 4


@pytest.mark.parametrize("away", [0, 1])
async def test_who_is_away_does_not_hide_who_did_not_answer_the_probe(
    sinks: list[Sink], away: int
) -> None:
    world = _World(*map(_tcp, sinks[:2]))
    world.forbids = UnprovenError("the probe proves nothing")
    sinks[away].refuse()
    with pytest.raises(UnprovenError) as failure:
        await world.open(CLIENT)
    assert str(sinks[away].port) in str(failure.value)
    assert "proves nothing" in str(failure.value)


async def test_looking_at_the_capabilities_needs_no_vetting(sinks: list[Sink]) -> None:
    world = _World(*map(_tcp, sinks))
    await world.connector.ask_capabilities()
    assert world.vetted == 0
    assert world.connector.capabilities.has("DSN")


async def test_capabilities_change_with_the_server(sinks: list[Sink]) -> None:
    world = _World(_tcp(sinks[0]))
    assert world.connector.capabilities == NOTHING
    await world.open(CLIENT)
    assert world.connector.capabilities.parameters("SIZE") == "52428800"
    sinks[0].extensions = ("SIZE 1000", *EXTENSIONS[2:])
    await world.open(CLIENT)
    assert world.connector.capabilities.parameters("SIZE") == "1000"
    assert not world.connector.capabilities.has("PIPELINING")


@pytest.mark.parametrize("hand_over", [HandOver.XCLIENT, HandOver.NONE])
async def test_a_client_that_says_helo_narrows_nothing_for_others(
    sinks: list[Sink], hand_over: HandOver
) -> None:
    world = _World(_tcp(sinks[0]), hand_over=hand_over)
    await world.connector.ask_capabilities()
    session = await world.open(_PLAIN)
    assert world.connector.capabilities.has("PIPELINING")
    if hand_over is HandOver.XCLIENT:
        assert sinks[0].sessions[-1].lines[-1].text == "HELO old.client.test"
        assert session.capabilities == NOTHING


async def test_a_refused_name_is_the_answer_to_that_client_alone(sinks: list[Sink]) -> None:
    """P5, P8: whoever is refused for its HELO must not have the server shunned for others."""
    world = _World(*map(_tcp, sinks[:2]))
    await world.open(CLIENT)
    refusal = b"550 5.7.1 Helo command rejected\r\n"
    sinks[0].answer("EHLO", b"250-sink.test\r\n250 XCLIENT NAME ADDR\r\n")
    sinks[0].answer("EHLO", refusal)
    sinks[0].answer("HELO", refusal)
    session = await world.open(CLIENT)
    replies = await session.exchange([b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n"])
    assert [reply.wire for reply in replies] == [refusal, refusal]
    sinks[0].forget()
    assert await _used(world, sinks[:2]) == 0
    assert all(world.health)


async def test_behind_proxy_the_greeting_is_about_the_client() -> None:
    with Sink(expects_proxy=True) as sink:
        world = _World(_tcp(sink), hand_over=HandOver.PROXY)
        await world.open(CLIENT)
        sink.answer("greeting", b"550 5.7.1 Listed\r\n")
        session = await world.open(CLIENT)
        (said,) = await session.exchange([b"MAIL FROM:<a@b>\r\n"])
        assert said.wire == b"550 5.7.1 Listed\r\n"
        assert world.health == [True, True]


async def test_identity_refused_is_not_tried_elsewhere(sinks: list[Sink]) -> None:
    """P5: fail closed."""
    world = _World(*map(_tcp, sinks[:2]))
    sinks[0].answer("XCLIENT", b"501 5.5.4 Bad ADDR syntax\r\n", always=True)
    with pytest.raises(IdentityError):
        await world.open(CLIENT)
    assert not sinks[1].sessions


async def test_identity_broken_off_is_not_handed_on(sinks: list[Sink]) -> None:
    """P5: who hangs up has not taken the identity over, whatever the reason."""
    world = _World(_tcp(sinks[0]))
    sinks[0].answer("XCLIENT", Answer(then=Then.CLOSE))
    sinks[0].answer("XCLIENT", Answer(then=Then.CLOSE))
    with pytest.raises(IdentityError, match="did not take over"):
        await world.open(CLIENT)
    assert ("identity", "lost") in world.observed


async def test_a_unix_socket_takes_sessions() -> None:
    with temporary_folder("sink") as folder:
        path = str(folder / "smtp.sock")
        with Sink(path=path) as sink:
            world = _World(ServerAddress(is_lmtp=False, path=path))
            session = await world.open(CLIENT)
            (said,) = await session.exchange([b"MAIL FROM:<a@b>\r\n"])
            assert said.code == 250
            assert sink.sessions[-1].identity["ADDR"] == "192.0.2.7"


async def test_a_client_without_address_is_told_as_such(sinks: list[Sink]) -> None:
    """P5: who comes over a unix socket has no address; never is it ours."""
    world = _World(_tcp(sinks[0]))
    await world.open(Client(helo="local.test"))
    identity = sinks[0].sessions[-1].identity
    assert (identity["ADDR"], identity["NAME"]) == ("[UNAVAILABLE]", "[UNAVAILABLE]")
    with pytest.raises(IdentityError, match="no address"):
        await _World(_tcp(sinks[0]), hand_over=HandOver.PROXY).connector.openers()[0](
            Client(helo="local.test")
        )


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Return a certificate for the server's address."""
    with temporary_folder("tls") as folder:
        yield make_certificate(folder, "127.0.0.1")


def _server_context(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


def _client_context(trusted: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trusted)
    if trusted is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _mail_over(world: _World) -> int:
    session: DownstreamSession = await world.open(CLIENT)
    (said,) = await session.exchange([b"MAIL FROM:<a@b>\r\n"])
    return said.code


async def test_tls_is_used_where_offered(pair: Pair) -> None:
    with Sink(tls=_server_context(pair)) as sink:
        assert await _mail_over(_World(_tcp(sink), tls=_client_context(None))) == 250
        assert sink.sessions[-1].is_tls
        assert await _mail_over(_World(_tcp(sink), tls=None)) == 250
        assert not sink.sessions[-1].is_tls


async def test_opportunistic_goes_on_without(sinks: list[Sink]) -> None:
    assert await _mail_over(_World(_tcp(sinks[0]), tls=_client_context(None))) == 250


async def test_required_and_verified(pair: Pair) -> None:
    with Sink(tls=_server_context(pair)) as sink:
        verifies = _client_context(pair.certificate)
        assert await _mail_over(_World(_tcp(sink), tls=verifies, is_tls_required=True)) == 250
        assert sink.sessions[-1].is_tls


async def test_required_fails_clearly(pair: Pair, sinks: list[Sink]) -> None:
    """P5: neither a stripped STARTTLS nor another's certificate is taken for TLS."""
    stripped = _World(_tcp(sinks[0]), tls=_client_context(pair.certificate), is_tls_required=True)
    with pytest.raises(UnreachableError, match="TLS is required and is not offered"):
        await stripped.open(CLIENT)
    with Sink(tls=_server_context(pair)) as sink:
        stranger = _World(_tcp(sink), tls=ssl.create_default_context(), is_tls_required=True)
        with pytest.raises(UnreachableError, match="certificate verify failed"):
            await stranger.open(CLIENT)
        sink.answer("STARTTLS", b"454 4.7.0 TLS not available\r\n", always=True)
        refused = _World(_tcp(sink), tls=_client_context(pair.certificate), is_tls_required=True)
        with pytest.raises(UnreachableError, match="was refused: 454"):
            await refused.open(CLIENT)
        assert not sink.sessions[-1].is_tls


async def test_replies_smuggled_before_tls_end_the_session(pair: Pair) -> None:
    """CVE-2011-0411 the other way round: what came in clear is not taken for protected."""
    with Sink(tls=_server_context(pair)) as sink:
        sink.answer("STARTTLS", b"220 2.0.0 Go\r\n250 injected\r\n")
        world = _World(_tcp(sink), tls=_client_context(None))
        with pytest.raises(UnreachableError):
            await world.open(CLIENT)


async def _lmtp_session(sink: Sink, recipients: int) -> DownstreamSession:
    world = _World(_tcp(sink, is_lmtp=True))
    session = await world.open(CLIENT)
    commands = [b"MAIL FROM:<a@b>\r\n", *(b"RCPT TO:<%d@c>\r\n" % i for i in range(recipients))]
    assert all(reply.is_accepted for reply in await session.exchange(commands))
    (go_ahead,) = await session.exchange([b"DATA\r\n"])
    assert go_ahead.code == 354
    await session.write(b"To: x\r\n\r\nHello\r\n")
    return session


async def test_lmtp_answers_for_each_recipient() -> None:
    with Sink(is_lmtp=True) as sink:
        session = await _lmtp_session(sink, 3)
        sink.answer("content", b"250 2.0.0 saved\r\n")
        sink.answer("content", b"452 4.2.2 full\r\n")
        sink.answer("content", b"550 5.1.1 unknown\r\n")
        assert [reply.code for reply in await session.finish(3)] == [250, 452, 550]


async def test_lmtp_lost_between_two_answers() -> None:
    """P1: who was answered for has got it; the others' outcome is unknown, and they come again."""
    with Sink(is_lmtp=True) as sink:
        session = await _lmtp_session(sink, 3)
        sink.answer("content", b"250 2.0.0 saved\r\n")
        sink.answer("content", Answer(b"452 4.2.2 full\r\n", then=Then.CLOSE))
        replies = await session.finish(3)
        assert [reply.code for reply in replies] == [250, 452, 451]
        with pytest.raises(LostError):
            await session.exchange([b"RSET\r\n"])


async def test_lmtp_lost_before_any_answer() -> None:
    with Sink(is_lmtp=True) as sink:
        session = await _lmtp_session(sink, 2)
        sink.answer("content", Answer(then=Then.RESET))
        with pytest.raises(LostError):
            await session.finish(2)


async def test_a_silent_server_is_given_up(sinks: list[Sink]) -> None:
    """P8: each reply has its time-out."""
    session = await _World(_tcp(sinks[0])).open(CLIENT)
    session._settings = replace(session._settings, command_timeout_s=0.1)
    sinks[0].answer("MAIL", Answer(then=Then.SILENCE))
    with pytest.raises(LostError, match="no answer in time"):
        await session.exchange([b"MAIL FROM:<a@b>\r\n"])
    sinks[0].answer("greeting", Answer(then=Then.SILENCE))
    with pytest.raises(UnreachableError, match="no answer in time"):
        await _World(_tcp(sinks[0]), timeout_s=0.1).open(CLIENT)


async def test_who_does_not_greet_is_given_up_as_who_does_not_connect(sinks: list[Sink]) -> None:
    """P8: a system that takes connections for a server that is stuck costs no command's time."""
    world = _World(_tcp(sinks[0]), timeout_s=0.1, command_timeout_s=60.0)
    sinks[0].answer("greeting", Answer(then=Then.SILENCE))
    async with asyncio.timeout(30.0):
        with pytest.raises(UnreachableError, match="no answer in time"):
            await world.open(CLIENT)
    assert world.observed == [("connect", "lost")]


_TOO_BIG = b"552-5.3.4 Too big\r\n552 5.3.4 for me\r\n"


@pytest.mark.parametrize("is_closed", [True, False], ids=["hangs up", "goes on reading"])
@pytest.mark.parametrize("blocks", [1, 200], ids=["a little more", "much more"])
async def test_refused_in_the_middle_of_content(is_closed: bool, blocks: int) -> None:
    """P2: what the server says before the end of content is its answer; it never sees the end."""
    received = bytearray()
    refused = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink.test\r\n")
        while line := await reader.readline():
            if line.startswith(b"DATA"):
                writer.write(b"354 go\r\n")
                received.extend(await reader.readexactly(100_000))
                writer.write(_TOO_BIG)
                refused.set()
                if not is_closed:
                    received.extend(await reader.read())
                break
            writer.write(b"250 Ok\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        world = _World(ServerAddress(False, "127.0.0.1", port), hand_over=HandOver.NONE)
        session = await world.open(CLIENT)
        await session.exchange([b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n"])
        (go_ahead,) = await session.exchange([b"DATA\r\n"])
        assert go_ahead.code == 354
        await session.write(b"x" * 100_000)
        await refused.wait()

        async def is_known() -> bool:
            return session._wire.early_refusal is not None

        await eventually(is_known)
        for _ in range(blocks):
            await session.write(b"y" * 65_536)
        (said,) = await session.finish(1)
        assert said.wire == _TOO_BIG
        assert ("content", "5") in world.observed
        with pytest.raises(LostError):
            await session.exchange([b"RSET\r\n"])
    assert b"\r\n.\r\n" not in received


async def test_nobody_listens() -> None:
    world = _World(ServerAddress(is_lmtp=False, host="127.0.0.1", port=free_port()))
    with pytest.raises(UnreachableError):
        await world.open(CLIENT)
    assert ("connect", "lost") in world.observed


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    address = ServerAddress(is_lmtp=True, host="2001:db8::1", port=24)
    assert str(address) == "lmtp://[2001:db8::1]:24"
