"""A gateway before a recording sink, one for each kind of tracking list."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

import pytest

from tests.support.gateway import Gateway, Settings, running_gateway, settings_for
from tests.support.redis import RedisServer, redis_server
from tests.support.sink import Sink

Pair = tuple[Gateway, Sink]
StartPair = Callable[[Settings], Pair]


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """Return a running Redis."""
    with redis_server() as server:
        yield server


@pytest.fixture(params=["redis", "sqlite"])
def store(request: pytest.FixtureRequest, redis: RedisServer) -> dict[str, object]:
    """Return the setting for a tracking list; SQLite is what the gateway has by itself."""
    if request.param == "redis":
        return {"store.url": redis.url}
    return {}


@pytest.fixture(scope="session")
def _pairs() -> Iterator[Callable[[str, Settings], Pair]]:
    """Return what finds the pair with these settings, or starts it; it stays to the end."""
    with contextlib.ExitStack() as stack:
        running: dict[str, Pair] = {}

        def pair(kind: str, settings: Settings) -> Pair:
            key = f"{kind} {json.dumps(settings, sort_keys=True)}"
            if key not in running:
                sink = stack.enter_context(Sink())
                chosen = {"dedup.action": "drop", **settings_for(sink.port), **settings}
                running[key] = stack.enter_context(running_gateway(chosen)), sink
            gateway, sink = running[key]
            sink.forget()
            return gateway, sink

        yield pair


@pytest.fixture
def start_pair(store: dict[str, object], _pairs: Callable[[str, Settings], Pair]) -> StartPair:
    """Return what starts a gateway before a sink; tests with the same settings share it.

    So a test uses ids of its own (`letter.fresh_id`), and counts differences.
    """
    return lambda settings: _pairs(str(store), {**store, **settings})
