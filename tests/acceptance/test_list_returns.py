"""The tracking list goes and comes back: ``/readyz`` and the mail tell the same."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.client import deliver
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.process import wait_until
from tests.support.recording import Answer
from tests.support.redis import redis_server
from tests.support.sink import Sink


def _status(gateway: Gateway) -> tuple[int, str]:
    code, body = gateway.http("/readyz")
    return code, json.loads(body)["status"]


def _send(gateway: Gateway, message: bytes) -> int:
    final = deliver(gateway.port, "a@sender.test", ["x@example.org"], message).final
    assert final is not None
    return final.code


@pytest.mark.parametrize(
    ("on_failure", "meanwhile", "code"),
    [("deliver", (200, "degraded"), 250), ("tempfail", (503, "unready"), 451)],
)
def test_p4_who_waits_until_we_are_ready_again_is_served_in_full(
    on_failure: str, meanwhile: tuple[int, str], code: int
) -> None:
    """P4: no message passes unchecked, or is put off, once we say that all is well."""
    with Sink() as sink, redis_server() as redis:
        settings = {
            "store.url": redis.url,
            "store.on_failure": on_failure,
            **settings_for(sink.port),
        }
        with running_gateway(settings) as gateway:
            assert gateway.metric("mailonce_store_up") == 1
            assert _send(gateway, letter(fresh_id())) == 250
            redis.kill()
            assert _send(gateway, letter(fresh_id())) == code
            wait_until(lambda: _status(gateway) == meanwhile, "it is noticed")
            redis.restart()
            wait_until(lambda: _status(gateway) == (200, "ready"), "it is noticed", 20.0)
            sink.forget()
            message = letter(fresh_id())
            assert [_send(gateway, message), _send(gateway, message)] == [250, 250]
            first, second = (content for _, content in sink.deliveries())
            assert first == message
            assert second.startswith(b"X-Mailonce: duplicate; ")


def test_what_passed_unchecked_is_known_once_the_list_is_back() -> None:
    """An outage leaves no hole: a copy of what was delivered meanwhile is a duplicate."""
    with Sink() as sink, redis_server() as redis:
        settings = {"store.url": redis.url, "dedup.action": "drop", **settings_for(sink.port)}
        with running_gateway(settings) as gateway:
            redis.kill()
            message = letter(fresh_id())
            assert _send(gateway, message) == 250
            redis.restart()
            record = "mo:{*"  # see `redis_layout`
            wait_until(lambda: redis.ask("KEYS", record), "the list is told", 20.0)
            assert _send(gateway, message) == 250
            assert len(sink.deliveries()) == 1


def test_a_refused_message_need_not_wait_for_its_lease() -> None:
    """The list went away between claim and refusal; the retry passes as soon as it is back."""
    refuse = threading.Event()
    with Sink() as sink, redis_server() as redis, ThreadPoolExecutor() as pool:
        settings = {"store.url": redis.url, "store.timeout": "1s", **settings_for(sink.port)}
        sink.answer("content", Answer(b"451 4.3.0 later\r\n", gate=refuse))
        with running_gateway(settings) as gateway:
            message = letter(fresh_id())
            first = pool.submit(_send, gateway, message)
            sink.wait_for_command("DATA")
            redis.pause()
            assert _send(gateway, letter(fresh_id())) == 250  # finds out that the list hangs
            refuse.set()
            assert first.result() == 451
            wait_until(lambda: _status(gateway)[1] == "degraded", "it is noticed")
            redis.resume()
            wait_until(lambda: _status(gateway) == (200, "ready"), "it is noticed", 20.0)
            assert _send(gateway, message) == 250
            assert sink.deliveries()[-1][1] == message
