"""What is wrong with downstream or list is told before any message meets it."""

from __future__ import annotations

import json

from tests.support.client import Client
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.process import free_port, wait_until
from tests.support.redis import RedisServer, redis_server
from tests.support.sink import Sink

_NO_ANSWER = b"450 4.1.2 Domain not found\r\n"  # proves nothing either way
_OPEN = "probe@open.test"  # the sink takes what is not .invalid


def _reasons(gateway: Gateway) -> tuple[int, str]:
    code, body = gateway.http("/readyz")
    return code, " ".join(json.loads(body)["reasons"]) if code else ""


def _public() -> dict[str, object]:
    return {"listen.smtp": [f"0.0.0.0:{free_port()}"]}


def test_a_list_that_is_away_is_in_the_log_without_any_mail() -> None:
    with Sink() as sink, redis_server() as redis:
        with running_gateway({"store.url": redis.url, **settings_for(sink.port)}) as gateway:
            redis.kill()
            gateway.wait_for_log("store_unavailable", 45.0)
            redis.restart()
            gateway.wait_for_log("store_recovered", 45.0)
        assert not sink.transactions


def test_who_asks_hears_of_the_present() -> None:
    """Whoever has just been told that all is well is soon told that it is not."""
    with Sink() as sink, redis_server() as redis:
        settings = {"store.url": redis.url, **settings_for(sink.port)}
        with running_gateway(settings) as gateway:
            assert _reasons(gateway) == (200, "")
            redis.kill()
            sink.refuse()
            # By itself it would not look at the downstream again for a quarter of a minute.
            wait_until(lambda: "cannot be reached" in _reasons(gateway)[1], "it is told", 10.0)
            wait_until(lambda: "list does not answer" in _reasons(gateway)[1], "it is told", 10.0)


def test_a_list_that_evicts_is_told() -> None:
    policy = ("--maxmemory-policy", "allkeys-lru")
    with Sink() as sink, redis_server(*policy) as redis:
        thrown_away = _overfill(redis)
        with running_gateway({"store.url": redis.url, **settings_for(sink.port)}) as gateway:
            wait_until(lambda: "may evict" in _reasons(gateway)[1], "it is noticed", 30.0)
            code, body = gateway.http("/readyz")
            assert (code, json.loads(body)["status"]) == (200, "degraded")
            assert gateway.metric("mailonce_store_may_evict") == 1
            assert gateway.metric("mailonce_store_evicted_keys_total") >= thrown_away > 0
            gateway.wait_for_log("store_evicts")


def _overfill(redis: RedisServer) -> int:
    """Make it throw keys away; return how many."""
    with redis.client() as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + (1 << 20))
        for number in range(3000):
            client.set(f"other:{number}", bytes(1000))
        return int(client.info("stats")["evicted_keys"])


def test_a_list_that_could_evict_but_has_no_limit_does_not() -> None:
    unlimited = ("--maxmemory-policy", "allkeys-lru")
    with (
        Sink() as sink,
        redis_server(*unlimited) as redis,
        running_gateway({"store.url": redis.url, **settings_for(sink.port)}) as gateway,
    ):
        assert _reasons(gateway) == (200, "")
        assert gateway.metric("mailonce_store_may_evict") == 0


def test_p5_a_probe_that_proves_nothing_is_not_ready() -> None:
    """Mail is put off meanwhile, so a load balancer must not send it here."""
    with Sink() as sink:
        sink.answer("RCPT", _NO_ANSWER, always=True)
        settings = {**settings_for(sink.port), **_public(), "downstream.relay_probe": _OPEN}
        with running_gateway(settings, until="alive") as gateway:
            wait_until(lambda: "open-relay probe" in _reasons(gateway)[1], "it is told", 30.0)
            assert _reasons(gateway)[0] == 503


def test_p5_ready_soon_after_the_downstream_has_come() -> None:
    with Sink() as sink:
        sink.refuse()
        settings = {**settings_for(sink.port), **_public()}
        with running_gateway(settings, until="alive") as gateway:
            wait_until(lambda: "cannot be reached" in _reasons(gateway)[1], "it is told", 30.0)
            sink.listen()
            gateway.wait_until_ready()


def test_p5_an_open_relay_that_comes_later_is_called_one() -> None:
    with Sink() as sink:
        sink.refuse()
        port = free_port()
        settings = {
            **settings_for(sink.port),
            "listen.smtp": [f"0.0.0.0:{port}"],
            "downstream.relay_probe": _OPEN,
        }
        with running_gateway(settings, until="alive") as gateway, Client(port) as client:
            client.greet()
            sink.listen()
            assert client.command("MAIL FROM:<a@sender.test>").code == 421
            gateway.wait_for_log("relay_probe_failed")
            wait_until(lambda: "from strangers" in _reasons(gateway)[1], "it is told", 30.0)
            assert _reasons(gateway)[0] == 503
            assert "identity_not_handed_over" not in gateway.log()
