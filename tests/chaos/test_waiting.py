"""P4 in seconds: how long messages wait for a list that is down, or that hangs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import pytest

from gateway.edge.breaker import PERIOD_S
from tests.support.client import Client, deliver_over
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.redis import RedisServer, redis_server
from tests.support.sink import Sink

TIMEOUT_S = 2.0
PERIODS = 2.5
# Of the wait that a busy machine disturbed least: far from a second time-out.
SLACK_S = 1.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["down", "stalled"])
def test_p4_one_message_waits_once_per_breaker_period(server: RedisServer, fault: str) -> None:
    with Sink(keeps_content=False) as sink:
        settings = {
            **settings_for(sink.port),
            "store.url": server.url,
            "store.timeout": f"{TIMEOUT_S:g}s",
        }
        with running_gateway(settings) as gateway, Client(gateway.port, limit_s=60.0) as client:
            client.greet()
            for _ in range(20):
                _sent(client)
            before = {result: _operations(gateway, result) for result in ("timeout", "error")}
            server.kill() if fault == "down" else server.pause()
            waits_s: list[float] = []
            began = time.monotonic()
            while len(waits_s) < 100 or time.monotonic() < began + PERIODS * PERIOD_S:
                waits_s.append(_sent(client))
            periods = (time.monotonic() - began) / PERIOD_S
            tries = {result: _operations(gateway, result) - n for result, n in before.items()}
            if fault == "stalled":
                server.resume()
    slow_s = sorted(wait_s for wait_s in waits_s if wait_s >= TIMEOUT_S)
    print(f"{fault}: {len(waits_s)} messages, {[round(wait_s, 2) for wait_s in slow_s]} s waited")
    # A server that is gone refuses at once; one that hangs is tried once in each period.
    assert tries["timeout"] <= (periods + 1 if fault == "stalled" else 0)
    assert tries["error"] <= periods + 1
    if fault == "stalled":
        assert slow_s[0] < TIMEOUT_S + SLACK_S
    assert statistics.median(waits_s) < SLACK_S, "most of them do not wait"


def _operations(gateway: Gateway, result: str) -> float:
    return gateway.metric("mailonce_store_operations_total", result=result)


def _sent(client: Client) -> float:
    """Send a new message; return how long it took."""
    delivery = deliver_over(client, "a@sender.test", ["x@example.org"], letter(fresh_id()))
    assert delivery.is_accepted, delivery
    return delivery.took_s
