"""client -> gateway -> a real Postfix: what it queued, and who it believes the client is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.client import Client, deliver
from tests.support.gateway import Gateway, running_gateway
from tests.support.letter import fresh_id, letter
from tests.support.postfix import GUARD, Postfix, Service, running_postfix

pytestmark = pytest.mark.postfix

X, Y = "x@example.org", "y@example.org"


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    """Return a Postfix that lets us tell it who the client is."""
    with running_postfix(Service(GUARD)) as instance:
        yield instance


@pytest.fixture(scope="module")
def gateway(postfix: Postfix) -> Iterator[Gateway]:
    """Return a gateway before it."""
    settings = {
        "downstream.servers": [f"smtp://127.0.0.1:{postfix.port}"],
        "dedup.action": "drop",
    }
    with running_gateway(settings) as instance:
        yield instance


def test_new_partial_and_duplicate(gateway: Gateway, postfix: Postfix) -> None:
    """P1, P2: each recipient gets the message once, octet for octet."""
    postfix.forget()
    message = letter(fresh_id())
    first = deliver(gateway.port, "a@sender.test", [X], message)
    assert first.final is not None
    assert first.final.wire.startswith(b"250 2.0.0 Ok: queued as ")
    assert deliver(gateway.port, "a@sender.test", [X, Y], message).is_accepted
    again = deliver(gateway.port, "a@sender.test", [X, Y], message)
    assert again.final is not None
    assert b"duplicate of an already accepted message" in again.final.wire
    queued = postfix.wait_for_queued(2)
    assert sorted(each.recipients for each in queued) == [(X,), (Y,)]
    assert all(each.as_received == message for each in queued)


def test_log_line_names_the_queue_id(gateway: Gateway, postfix: Postfix) -> None:
    """P7: one grep leads from Postfix's log to ours."""
    postfix.forget()
    message_id = fresh_id()
    deliver(gateway.port, "a@sender.test", [X], letter(message_id))
    (queued,) = postfix.wait_for_queued(1)
    gateway.wait_for_log(message_id)
    (line,) = gateway.log_lines(message_id=message_id)
    assert line["queue_id"] == queued.queue_id


def test_postfix_sees_the_client(gateway: Gateway, postfix: Postfix) -> None:
    """P5: address and HELO are the client's, not ours."""
    postfix.forget()
    with Client(gateway.port, source="127.0.0.9") as client:
        client.greet("laptop.sender.test")
        client.command("MAIL FROM:<a@sender.test>")
        client.command(f"RCPT TO:<{X}>")
        client.command("DATA")
        client.send(letter(fresh_id()) + b".\r\n")
        assert client.answer().code == 250
    (queued,) = postfix.wait_for_queued(1)
    assert queued.attributes["log_client_address"] == "127.0.0.9"
    assert queued.attributes["log_helo_name"] == "laptop.sender.test"
    assert b"laptop.sender.test" in queued.message.split(b"\r\n", 1)[0]


def test_address_behind_an_address_suppresses_nobody(gateway: Gateway, postfix: Postfix) -> None:
    """P6: who had a message first cannot name another reader on the way to itself."""
    postfix.forget()
    message = letter(fresh_id())
    with Client(gateway.port) as client:
        client.greet("attacker.test")
        client.command("MAIL FROM:<a@sender.test>")
        client.command(f"RCPT TO:{X}<{Y}>")
        client.command("DATA")
        client.send(message + b".\r\n")
        assert client.answer().code == 250
    assert [each.recipients for each in postfix.wait_for_queued(1)] == [(Y,)]
    assert deliver(gateway.port, "a@sender.test", [X], message).is_accepted
    queued = postfix.wait_for_queued(2)
    assert sorted(each.recipients for each in queued) == [(X,), (Y,)]


def test_strangers_cannot_relay(gateway: Gateway) -> None:
    """P5: behind us it is no more of an open relay than before."""
    delivery = deliver(gateway.port, "a@sender.test", ["victim@elsewhere.test"], letter(fresh_id()))
    assert delivery.rcpt[0].code == 554


def test_parameters_reach_postfix(gateway: Gateway, postfix: Postfix) -> None:
    """P2: DSN and BODY parameters, with their case."""
    postfix.forget()
    with Client(gateway.port) as client:
        assert b"DSN" in client.greet().wire
        mail = "MAIL FROM:<a@sender.test> RET=HDRS ENVID=MixedCase+2Bid BODY=8BITMIME"
        assert client.command(mail).code == 250
        assert client.command(f"RCPT TO:<{X}> NOTIFY=NEVER ORCPT=rfc822;Big@x").code == 250
        client.command("DATA")
        client.send(letter(fresh_id(), "Grüße\r\n".encode()) + b".\r\n")
        assert client.answer().code == 250
    (queued,) = postfix.wait_for_queued(1)
    assert queued.attributes["envelope_id"] == "MixedCase+id", "Postfix shows xtext decoded"
    assert queued.attributes["dsn_orig_rcpt"] == "rfc822;Big@x"
