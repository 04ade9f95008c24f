"""Batches, and the connection below them, where Redis behaves too well to show what they do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import uvloop

from gateway.edge.redis_batch import Batcher
from gateway.edge.redis_wire import Server, dial
from gateway.errors import TrackingListError, TrackingListTimeoutError
from tests.support.redis import RedisServer
from tests.support.tracking import eventually

TIMEOUT_S = 0.3
# Nothing shall be late because somebody else keeps the machine busy for a moment.
PATIENCE_S = 30.0
GREETING = b"+OK\r\n"  # to CLIENT SETNAME, the only word of introduction


def batcher_for(port: int, host: str = "127.0.0.1", timeout_s: float = PATIENCE_S) -> Batcher:
    server = Server(host, port)
    return Batcher(str(server), partial(dial, server), timeout_s)


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[int]:
    """Listen; give each connection these octets, one answer for each thing it says, and hang up."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        for answer in answers:
            if await reader.read(64 * 1024):
                writer.write(answer)
        await reader.read(64 * 1024)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.gather(*(task for task in tasks if task is not None))


async def answers(batcher: Batcher) -> bool:
    with suppress(TrackingListTimeoutError):
        return await batcher.run([(b"PING",)]) == [b"PONG"]
    return False


async def test_what_is_asked_at_once_goes_together_and_in_order(redis: RedisServer) -> None:
    batcher = batcher_for(redis.port)
    await batcher.run([(b"CONFIG", b"RESETSTAT")])
    answers = await asyncio.gather(
        *(batcher.run([(b"RPUSH", b"list", b"%d" % i), (b"LLEN", b"list")]) for i in range(100))
    )
    assert answers == [[i, i] for i in range(1, 101)]
    await batcher.close()


async def test_a_refusal_is_a_value_and_stops_nobody(redis: RedisServer) -> None:
    batcher = batcher_for(redis.port)
    refused, answered = await asyncio.gather(
        batcher.run([(b"SET", b"a", b"1"), (b"LPUSH", b"a", b"1"), (b"GET", b"a")]),
        batcher.run([(b"GET", b"a")]),
    )
    assert refused[0] == b"OK"
    assert "WRONGTYPE" in str(refused[1])
    assert (refused[2], answered) == (b"1", [b"1"])
    await batcher.close()


async def test_who_goes_before_it_was_sent_takes_it_back(redis: RedisServer) -> None:
    batcher = batcher_for(redis.port)
    await batcher.run([(b"PING",)])
    gone = batcher.run([(b"SET", b"gone", b"1")])
    stays = batcher.run([(b"SET", b"stays", b"1")])
    gone.cancel()
    await stays
    assert redis.ask("KEYS", "*") == [b"stays"]
    await batcher.close()


async def test_close_waits_for_what_was_asked(redis: RedisServer) -> None:
    batcher = batcher_for(redis.port)
    last = batcher.run([(b"SET", b"last", b"1")])
    await batcher.close()
    assert last.done()
    assert redis.ask("EXISTS", "last") == 1
    with pytest.raises(TrackingListError, match="closed"):
        await batcher.run([(b"PING",)])


async def test_close_while_nobody_answers_ends(redis: RedisServer) -> None:
    batcher = batcher_for(redis.port, timeout_s=TIMEOUT_S)
    redis.pause()
    try:
        call = batcher.run([(b"PING",)])
        async with asyncio.timeout(PATIENCE_S):
            await batcher.close()
        assert isinstance(call.exception(), TrackingListTimeoutError)
    finally:
        redis.resume()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_p4_a_loop_that_is_late_does_not_blame_redis(
    redis: RedisServer, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def late() -> list[object]:
        batcher = batcher_for(redis.port, timeout_s=TIMEOUT_S)
        await eventually(partial(answers, batcher))
        call = batcher.run([(b"GET", b"nothing")])
        await asyncio.sleep(0)  # it is sent
        time.sleep(2 * TIMEOUT_S)  # noqa: ASYNC251 – somebody else holds up the loop
        redis.ask("PING")  # whoever is answered now was behind us: our reply has come
        replies = await call
        await batcher.close()
        return replies

    loop = new_loop()
    try:
        assert loop.run_until_complete(late()) == [None]
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ((b"220 mx.example ESMTP\r\n",), "220|rotocol"),
        ((GREETING, b"HTTP/1.1 400\r\n"), "rotocol"),
        ((GREETING,), "closed|reset"),
        ((), "closed|reset"),
        ((GREETING, b"+PO"), "closed|reset"),
    ],
    ids=["smtp", "http", "hangs-up", "hangs-up-at-once", "half-a-reply"],
)
async def test_what_is_no_redis_is_an_error(answers: tuple[bytes, ...], problem: str) -> None:
    async with answering(*answers) as port:
        batcher = batcher_for(port, timeout_s=TIMEOUT_S)
        with pytest.raises(TrackingListError, match=f"(?i){problem}|no answer"):
            await batcher.run([(b"PING",)])
        await batcher.close()


async def test_p1_a_reply_too_many_ends_the_connection() -> None:
    async with answering(GREETING, b"+ours\r\n+whose?\r\n", b"+never\r\n") as port:
        batcher = batcher_for(port)
        assert await batcher.run([(b"PING",)]) == [b"ours"]
        assert await batcher.run([(b"PING",)]) == [b"ours"], "on a new connection"
        await batcher.close()


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "nobody.invalid"])
async def test_a_host_that_cannot_be_is_an_error(host: str) -> None:
    batcher = batcher_for(6379, host)
    with pytest.raises(TrackingListError):
        await batcher.run([(b"PING",)])
    await batcher.close()


async def test_a_greeting_comes_first_on_each_connection(redis: RedisServer) -> None:
    batcher = batcher_for(redis.port)
    batcher.greeting = lambda: [(b"RPUSH", b"list", b"greeting"), (b"NONSENSE",)]

    async def is_noticed() -> bool:
        return batcher._wire is None

    for _ in range(2):
        for _ in range(2):
            await batcher.run([(b"RPUSH", b"list", b"call")])
        redis.ask("CLIENT", "KILL", "TYPE", "normal")
        await eventually(is_noticed)  # while nothing is asked
    said = redis.ask("LRANGE", "list", 0, -1)
    assert said == [b"greeting", b"call", b"call"] * 2
    await batcher.close()
