"""Short windows and leases, as whoever tries things out sets them."""

from __future__ import annotations

import time

from tests.support.client import deliver
from tests.support.gateway import running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.process import wait_until
from tests.support.recording import Answer
from tests.support.sink import Sink

_SENDER, _RECIPIENT = "a@sender.test", "x@example.org"


def test_a_window_of_seconds_ends_and_copies_do_not_renew_it() -> None:
    with Sink() as sink:
        settings = {"store.window": "3s", **settings_for(sink.port)}
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
            wait_until(is_new, "the window is over")
            assert time.monotonic() - began > 2.0


def test_p1_no_delivery_outlives_its_lease() -> None:
    """P1: the client is asked to try again while the claim still stands, and then served."""
    with Sink() as sink:
        settings = {"store.lease": "2s", **settings_for(sink.port)}
        with running_gateway(settings) as gateway:
            sink.answer("content", Answer(delay_s=30.0))  # longer than we wait
            message = letter(fresh_id())
            began = time.monotonic()
            final = deliver(gateway.port, _SENDER, [_RECIPIENT], message).final
            assert time.monotonic() - began < 20.0
            assert final is not None
            assert final.code == 451
            assert deliver(gateway.port, _SENDER, [_RECIPIENT], message).is_accepted
