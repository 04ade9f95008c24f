"""P1 with a real Dovecot behind: each recipient has an answer, and a retry reaches who needs it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.client import deliver
from tests.support.dovecot import Dovecot, running_dovecot
from tests.support.gateway import Gateway, running_gateway
from tests.support.letter import fresh_id, letter
from tests.support.process import wait_until

pytestmark = pytest.mark.dovecot

ONE, FULL, LATER = "one@example.org", "full@example.org", "later@example.org"
_SMALL_OCTETS, _BIG = 4096, b"0123456789abcdef" * 16 + b"\r\n"


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    """Return a server where one mailbox is nearly full."""
    with running_dovecot(
        [ONE, FULL], quota_octets={FULL: _SMALL_OCTETS}, more="quota_full_tempfail = yes\n"
    ) as instance:
        yield instance


@pytest.fixture(scope="module")
def strict() -> Iterator[Dovecot]:
    """Return one that refuses for good what does not fit, as Dovecot does by default."""
    with running_dovecot([ONE, FULL], quota_octets={FULL: _SMALL_OCTETS}) as instance:
        yield instance


@pytest.fixture(params=["tcp", "unix"], scope="module")
def gateway(dovecot: Dovecot, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """Return a gateway with all defaults: duplicates are tagged."""
    where = f"127.0.0.1:{dovecot.port}" if request.param == "tcp" else str(dovecot.path)
    with running_gateway({"downstream.servers": [f"lmtp://{where}"]}) as instance:
        yield instance


def _copies(dovecot: Dovecot, user: str, message: bytes) -> list[bool]:
    """Return for each copy of a message in a mailbox whether it is tagged."""
    body = message.partition(b"\r\n\r\n")[2]
    message_id = message[message.index(b"Message-ID: ") :].partition(b"\r\n")[0]
    return [
        b"\r\nX-Mailonce: duplicate; " in kept
        for kept in dovecot.messages(user)
        if message_id in kept and kept.endswith(body)
    ]


def _set_quota(dovecot: Dovecot, octets: int) -> None:
    users = dovecot.folder / "users"
    lines = users.read_text().splitlines()
    users.write_text(
        "".join(
            f"{line.rpartition('bytes=')[0]}bytes={octets}\n" if "bytes=" in line else f"{line}\n"
            for line in lines
        )
    )


def _code(gateway: Gateway, message: bytes, *recipients: str) -> bytes:
    delivery = deliver(gateway.port, "a@sender.test", recipients, message)
    last = delivery.last
    assert last is not None
    return last.wire


def _accepted(gateway: Gateway, message: bytes, *recipients: str) -> bytes:
    said = _code(gateway, message, *recipients)
    return said if said.startswith(b"2") else b""


def test_who_is_full_gets_it_later_and_nobody_twice(gateway: Gateway, dovecot: Dovecot) -> None:
    _set_quota(dovecot, _SMALL_OCTETS)
    # Dovecot looks at its file once a second; each try in between is a message more.
    wait_until(
        lambda: _code(gateway, letter(fresh_id(), _BIG * 40), FULL).startswith(b"452 "),
        "there is no room",
    )
    message = letter(fresh_id(), _BIG * 40)
    for _ in range(4):
        assert _code(gateway, message, ONE, FULL).startswith(b"452 4.2.2 <full@example.org> ")
    assert _copies(dovecot, ONE, message) == [False]
    assert _copies(dovecot, FULL, message) == []
    _set_quota(dovecot, 10_000_000)
    # Here each try in between is one more retry.
    said = wait_until(lambda: _accepted(gateway, message, ONE, FULL), "there is room")
    assert said.startswith(b"250 2.0.0 <full@example.org> ")
    assert _copies(dovecot, ONE, message) == [False]
    assert _copies(dovecot, FULL, message) == [False]
    # All is told; what comes now is a duplicate as any other.
    assert _code(gateway, message, ONE, FULL).startswith(b"250 ")
    assert sorted(_copies(dovecot, ONE, message)) == [False, True]
    assert sorted(_copies(dovecot, FULL, message)) == [False, True]


def test_who_is_refused_for_good_is_told_so(strict: Dovecot) -> None:
    """The client hears the worst of the answers, and nobody has the message twice."""
    settings = {"downstream.servers": [f"lmtp://127.0.0.1:{strict.port}"]}
    message = letter(fresh_id(), _BIG * 40)
    with running_gateway(settings) as gateway:
        for _ in range(2):
            assert _code(gateway, message, ONE, FULL).startswith(b"552 5.2.2 <full@example.org> ")
    assert _copies(strict, ONE, message) == [False]
    assert _copies(strict, FULL, message) == []


def test_who_is_unknown_is_refused_at_rcpt(gateway: Gateway, dovecot: Dovecot) -> None:
    """The client hears of each recipient at once where the server tells it at once."""
    message = letter(fresh_id())
    delivery = deliver(gateway.port, "a@sender.test", [ONE, LATER], message)
    assert delivery.accepted == (True, False)
    assert delivery.rcpt[1].code == 550
    assert _copies(dovecot, ONE, message) == [False]


def test_who_becomes_known_gets_it(gateway: Gateway, dovecot: Dovecot) -> None:
    message = letter(fresh_id())
    newcomer = f"new-{gateway.port}@example.org"
    assert deliver(gateway.port, "a@sender.test", [ONE, newcomer], message).accepted == (
        True,
        False,
    )
    users = dovecot.folder / "users"
    template = users.read_text().splitlines()[0]
    users.write_text(users.read_text() + template.replace(ONE, newcomer) + "\n")
    wait_until(lambda: _accepted(gateway, message, newcomer), "the newcomer is known")
    assert _copies(dovecot, newcomer, message) == [False]


def test_all_accepted_is_one_answer(gateway: Gateway, dovecot: Dovecot) -> None:
    _set_quota(dovecot, 10_000_000)
    message = letter(fresh_id())
    assert _code(gateway, message, ONE, FULL).startswith(b"250 2.0.0 ")
    for user in (ONE, FULL):
        assert _copies(dovecot, user, message) == [False]
