"""The real Redis that all tests of a process share; each test finds it empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis import RedisServer, redis_server


@pytest.fixture(scope="session")
def _redis_process() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def redis(_redis_process: RedisServer) -> RedisServer:
    """Return the running server, emptied."""
    _redis_process.ask("FLUSHALL")
    return _redis_process
