"""Both faces of one gateway: what the hop has passed on, the milter knows, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.cli import mailonce
from tests.support.client import Client, deliver, deliver_over
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.need import need
from tests.support.postfix import GUARD, Postfix, Service, running_postfix
from tests.support.process import free_port, wait_until
from tests.support.sink import Sink

pytestmark = pytest.mark.postfix

_MESSAGE = (
    b"From: Alice <alice@example.com>\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\n"
    b"Subject: lunch\r\n\tand more\r\nMessage-ID: <%b@example.com>\r\n\r\n.At noon?\r\n"
)
_BOB = "bob@example.org"
_ALICE = "alice@example.com"


@dataclass(frozen=True, slots=True)
class _Both:
    """A gateway with both faces; Postfix has it as its milter, the sink is behind the hop."""

    gateway: Gateway
    postfix: Postfix
    sink: Sink


@pytest.fixture(scope="module")
def both() -> Iterator[_Both]:
    need("postfix", root=True)
    with ExitStack() as stack:
        sink = stack.enter_context(Sink())
        port = free_port()
        settings = {
            **settings_for(sink.port),
            "downstream.identity": "none",
            "listen.milter": [f"127.0.0.1:{port}"],
            "dedup.action": "drop",
            "workers": 2,
        }
        gateway = stack.enter_context(running_gateway(settings))
        service = Service({**GUARD, "smtpd_milters": f"inet:127.0.0.1:{port}"})
        yield _Both(gateway, stack.enter_context(running_postfix(service)), sink)


def test_copy_from_the_hop_is_dropped_behind_the_milter(both: _Both) -> None:
    message = _MESSAGE % b"hop-first"
    assert deliver(both.gateway.port, _ALICE, [_BOB], message).is_accepted
    both.postfix.forget()
    delivery = deliver(both.postfix.port, _ALICE, [_BOB, "carol@example.org"], message)
    assert delivery.is_accepted
    [queued] = both.postfix.queued()
    assert queued.recipients == ("carol@example.org",)
    assert queued.as_received == message


def test_copy_from_the_milter_is_tagged_by_the_hop_while_young(both: _Both) -> None:
    """P1: Postfix may have refused what its milter saw."""
    message = _MESSAGE % b"milter-first"
    assert deliver(both.postfix.port, _ALICE, [_BOB], message).is_accepted
    before = len(both.sink.accepted)
    assert deliver(both.gateway.port, _ALICE, [_BOB], message).is_accepted
    [copy] = both.sink.accepted[before:]
    assert copy.message.startswith(b"X-Mailonce: duplicate; ")
    # Now the hop knows that it was accepted, and the third copy is dropped by either face.
    third = deliver(both.gateway.port, _ALICE, [_BOB], message)
    assert third.final is not None
    assert "duplicate of an already accepted message" in third.final.lines[0]
    both.postfix.forget()
    assert deliver(both.postfix.port, _ALICE, [_BOB], message).is_accepted
    assert both.postfix.queued() == []


def test_counted_and_explained_like_any_other(both: _Both) -> None:
    """P7."""
    message = _MESSAGE % b"explained"
    for _ in range(2):
        assert deliver(both.postfix.port, _ALICE, [_BOB], message).is_accepted

    def logged() -> list[dict[str, Any]]:
        found = both.gateway.log_lines(message_id="explained@example.com")
        return found if len(found) == 2 else []

    def is_all_counted() -> bool:
        tagged = {"verdict": "duplicate", "action": "tagged"}
        counted = both.gateway.metric("mailonce_messages_total", **tagged)
        return counted == len(both.gateway.log_lines(event="message", **tagged))

    # Two workers may have had them, and each writes its lines in its own time.
    lines = wait_until(logged, "both copies are in the log")
    wait_until(is_all_counted, "what is in the log is counted")
    assert sorted((line["verdict"], line["action"], line["client"]) for line in lines) == [
        ("duplicate", "tagged", "127.0.0.1"),
        ("new", "relayed", "127.0.0.1"),
    ]
    queue_id = both.postfix.queued()[-1].queue_id

    def traced() -> str:
        # The list is told when the mail server has its answer.
        name, file = "<explained@example.com>", both.gateway.config_file
        told = mailonce("trace", name, "--json", "--config", file)
        return json.dumps(json.loads(told.out)) if queue_id in told.out else ""

    assert _BOB in wait_until(traced, "the trace of both")


def test_restart_in_the_middle_of_a_session(both: _Both) -> None:
    """P1: a message that meets no milter is tempfailed by Postfix, not lost."""
    both.postfix.forget()
    with Client(both.postfix.port) as client:
        client.greet()
        first = deliver_over(client, _ALICE, [_BOB], _MESSAGE % b"before")
        both.gateway.restart()
        second = deliver_over(client, _ALICE, [_BOB], _MESSAGE % b"after")
    assert first.is_accepted
    assert second.last is not None
    assert second.last.code == 451
    assert deliver(both.postfix.port, _ALICE, [_BOB], _MESSAGE % b"after").is_accepted
    assert len(both.postfix.queued()) == 2
