"""Short windows and leases, as whoever tries things out sets them."""

from __future__ import annotations

import time

from tests.support.client import Client, deliver
from tests.support.gateway import running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.process import wait_until
from tests.support.recording import Answer, Then
from tests.support.sink import Sink

_SENDER, _RECIPIENT = "a@sender.test", "x@example.org"


def test_a_window_of_seconds_ends_and_copies_do_not_renew_it() -> None:
    with Sink() as sink:
        settings = {"store.window": "6s", **settings_for(sink.port)}
        with running_gateway(settings) as gateway:
            message = letter(fresh_id())
            began = time.monotonic()

            def is_new() -> bool:
                sink.forget()
                assert deliver(gateway.port, _SENDER, [_RECIPIENT], message).is_accepted
                ((_, content),) = sink.deliveries()
                return content == message

            assert is_new()
            assert not is_new()
            wait_until(is_new, "the window is over", 30.0)
            assert time.monotonic() - began > 5.0


def test_p1_no_delivery_outlives_its_lease() -> None:
    """P1: the client is asked to try again while the claim still stands, and then served."""
    with Sink() as sink:
        settings = {"store.lease": "2s", **settings_for(sink.port)}
        with running_gateway(settings) as gateway:
            sink.answer("content", Answer(then=Then.SILENCE))
            message = letter(fresh_id())
            final = deliver(gateway.port, _SENDER, [_RECIPIENT], message, limit_s=60.0).final
            assert final is not None
            assert final.code == 451
            assert deliver(gateway.port, _SENDER, [_RECIPIENT], message, limit_s=60.0).is_accepted


def _begin(client: Client, message: bytes) -> None:
    """Send all of a message but the final dot."""
    client.greet()
    client.command(f"MAIL FROM:<{_SENDER}>")
    client.command(f"RCPT TO:<{_RECIPIENT}>")
    client.command("DATA")
    client.send(message)


def test_p1_no_content_outlives_its_lease() -> None:
    """Another copy has been let through meanwhile; the silent client is told to try again."""
    with Sink() as sink:
        settings = {"store.lease": "2s", **settings_for(sink.port)}
        with running_gateway(settings) as gateway, Client(gateway.port) as client:
            message = letter(fresh_id())
            _begin(client, message)
            wait_until(
                lambda: (
                    deliver(gateway.port, _SENDER, [_RECIPIENT], message, limit_s=60.0).is_accepted
                ),
                "the claim has ended",
                30.0,
            )
            client.send(b".\r\n")
            assert client.answer().wire.startswith(b"421 4.4.2 ")
            assert client.is_closed()
            ((_, content),) = sink.deliveries()
            assert content == message


def test_a_claim_is_held_for_as_long_as_content_flows() -> None:
    """It takes longer than its lease; a copy that comes meanwhile waits, and is told apart."""
    with Sink() as sink:
        settings = {"store.lease": "6s", "dedup.in_flight_wait": "200ms", **settings_for(sink.port)}
        with running_gateway(settings) as gateway, Client(gateway.port) as client:
            message = letter(fresh_id())
            _begin(client, message)
            began = time.monotonic()
            while time.monotonic() - began < 9.0:
                client.send(b"And more.\r\n" * 100)
                final = deliver(gateway.port, _SENDER, [_RECIPIENT], message).final
                assert final is not None
                assert final.code == 451
            client.send(b".\r\n")
            assert client.answer().code == 250
            assert len(sink.deliveries()) == 1
