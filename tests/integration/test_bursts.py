"""P1: a downstream that goes away within a pipelined burst: one reply each, no 250 of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.support.client import Client
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.recording import Answer, Then
from tests.support.sink import Sink

_MAIL = b"MAIL FROM:<a@sender.test>\r\n"
_OK = Answer(b"250 2.1.5 Ok\r\n")
_UNKNOWN = Answer(b"550 5.1.1 No such user\r\n")
_CLOSES, _RESETS = Answer(then=Then.CLOSE), Answer(then=Then.RESET)
_SAYS_AND_CLOSES = Answer(b"250 2.1.5 Ok\r\n", then=Then.CLOSE)
_HALF = Answer(b"250 2.1", then=Then.CLOSE)
_GO = [250] * 4
_RECIPIENTS = tuple(f"r{number}@example.org" for number in range(3))


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(sink: Sink) -> Iterator[Gateway]:
    with running_gateway({**settings_for(sink.port), "store.url": "memory://"}) as instance:
        yield instance


def _burst(recipients: Sequence[str]) -> bytes:
    return b"".join(b"RCPT TO:<%b>\r\n" % name.encode() for name in recipients)


def _codes(client: Client, octets: bytes, replies: int) -> list[int]:
    """Send octets in one write; return so many codes, behind which nothing more comes."""
    client.send(octets)
    codes = [client.answer().code for _ in range(replies)]
    assert client.is_quiet()
    return codes


def _content(client: Client, message_id: str) -> int:
    client.send(letter(message_id) + b".\r\n")
    return client.answer().code


# What the downstream does about each MAIL, and about each RCPT, one after the other.
BURSTS = [
    ([_CLOSES], [], "at MAIL"),
    ([_RESETS], [], "at MAIL, by a reset"),
    ([_HALF], [], "within the reply to MAIL"),
    ([_SAYS_AND_CLOSES], [], "behind the reply to MAIL"),
    ([], [_CLOSES], "at the first RCPT"),
    ([], [_OK, _RESETS], "at the second RCPT"),
    ([], [_UNKNOWN, _RESETS], "at the second RCPT, the first one refused"),
    ([], [_OK, _HALF], "within the reply to the second RCPT"),
    ([], [_OK, _SAYS_AND_CLOSES], "behind the reply to the second RCPT"),
    ([], [_OK, _OK, _CLOSES], "at the last RCPT"),
]


@pytest.mark.parametrize(("mails", "rcpts", "reason"), BURSTS, ids=[row[2] for row in BURSTS])
class TestLost:
    """One loss, seen by a client with three states of its session."""

    def test_a_fresh_session_has_nothing_accepted(
        self, gateway: Gateway, sink: Sink, mails: list[Answer], rcpts: list[Answer], reason: str
    ) -> None:
        """What was answered before is not told: there is no transaction that it would belong to."""
        sink.forget()
        _script(sink, mails, rcpts)
        with Client(gateway.port) as client:
            client.greet()
            codes = _codes(client, _MAIL + _burst(_RECIPIENTS) + b"DATA\r\n", 5)
            assert codes == [451] * 5, reason
            assert _codes(client, _MAIL + _burst(_RECIPIENTS) + b"DATA\r\n", 5) == [*_GO, 354]
            assert _content(client, fresh_id()) == 250
        assert [name for name, _ in sink.deliveries()] == list(_RECIPIENTS)

    def test_a_session_that_idled_is_opened_anew_for_the_whole_burst(
        self, gateway: Gateway, sink: Sink, mails: list[Answer], rcpts: list[Answer], reason: str
    ) -> None:
        sink.forget()
        with Client(gateway.port) as client:
            _open(client)
            _script(sink, mails, rcpts)
            codes = _codes(client, _MAIL + _burst(_RECIPIENTS) + b"DATA\r\n", 5)
            assert codes == [*_GO, 354], reason
            assert _content(client, fresh_id()) == 250
        assert [name for name, _ in sink.deliveries()] == list(_RECIPIENTS)

    def test_a_second_loss_is_told(
        self, gateway: Gateway, sink: Sink, mails: list[Answer], rcpts: list[Answer], reason: str
    ) -> None:
        sink.forget()
        with Client(gateway.port) as client:
            _open(client)
            for _ in range(2):
                _script(sink, mails, rcpts)
            codes = _codes(client, _MAIL + _burst(_RECIPIENTS) + b"DATA\r\n", 5)
            assert codes == [451] * 5, reason
        assert not sink.deliveries()


def _script(sink: Sink, mails: Sequence[Answer], rcpts: Sequence[Answer]) -> None:
    for said in mails:
        sink.answer("MAIL", said)
    for said in rcpts:
        sink.answer("RCPT", said)


def _open(client: Client) -> None:
    """Have a session with the downstream, and no transaction."""
    client.greet()
    assert _codes(client, _MAIL + b"RSET\r\n", 2) == [250, 250]


def test_a_recipient_that_was_told_goes_down_with_the_transaction(
    gateway: Gateway, sink: Sink
) -> None:
    """Lost between two bursts of one transaction: the rest is put off, content included."""
    sink.forget()
    with Client(gateway.port) as client:
        client.greet()
        assert _codes(client, _MAIL + _burst(_RECIPIENTS[:1]), 2) == [250, 250]
        _script(sink, [], [_OK, _RESETS])
        assert _codes(client, _burst(_RECIPIENTS) + b"DATA\r\n", 4) == [451] * 4
        assert _codes(client, b"RSET\r\n", 1) == [250]
    assert not sink.deliveries()


def test_a_burst_of_hundreds_is_told_as_far_as_it_went(gateway: Gateway, sink: Sink) -> None:
    """It goes in parts; those that were answered stay told, all others are put off."""
    sink.forget()
    many = [f"r{number}@example.org" for number in range(350)]
    _script(sink, [], [*[_OK] * 220, _RESETS])
    with Client(gateway.port) as client:
        client.greet()
        codes = _codes(client, _MAIL + _burst(many) + b"DATA\r\n", 352)
    assert 451 in codes
    told = codes.index(451)
    assert codes[:told] == [250] * told
    assert codes[told:] == [451] * (352 - told)
    assert told <= 1 + 220, "no more than the downstream has accepted"
    assert not sink.deliveries()
