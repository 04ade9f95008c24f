"""Links to Redis against scripted servers: what only happens when two things happen at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hiredis import Reader

from gateway.edge.redis_cluster import ClusterLink, _owners, _slot
from gateway.edge.redis_inspection import _masters
from gateway.edge.redis_link import SentinelDial
from gateway.edge.redis_wire import Server, dial
from gateway.errors import TrackingListError

HOST = "127.0.0.1"
LIMIT_S = 30.0

Answer = Callable[[list[bytes]], Awaitable[bytes | None]]
"""Returns what a command is answered; None to hang up."""


@asynccontextmanager
async def answering(answer: Answer, gone: asyncio.Event | None = None) -> AsyncIterator[int]:
    """Listen; answer each command, and tell when a connection has ended."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        commands = Reader()
        while data := await reader.read(64 * 1024):
            commands.feed(data)
            while isinstance(command := commands.gets(), list):
                said = b"+OK\r\n" if command[0] == b"CLIENT" else await answer(command)
                if said is None:
                    writer.transport.abort()
                    return
                writer.write(said)
        writer.close()
        if gone is not None:
            gone.set()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*(task for task in tasks if task is not None))


def key_of(slots: range) -> bytes:
    return next(key for key in (b"%d" % n for n in range(1000)) if _slot(key) in slots)


async def test_a_slot_moves_while_another_call_loses_its_node() -> None:
    """The map is thrown away with the lost node; a redirection is followed without it."""
    lower, upper = range(8192), range(8192, 16384)
    is_lost, asked = asyncio.Event(), asyncio.Event()
    ports: list[int] = []

    async def first(command: list[bytes]) -> bytes:
        if command[0] == b"CLUSTER":
            parts = [
                b"*3\r\n:%d\r\n:%d\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n"
                % (slots[0], slots[-1], port)
                for slots, port in zip((lower, upper), ports, strict=True)
            ]
            return b"*2\r\n" + b"".join(parts)
        asked.set()
        await asyncio.wait_for(is_lost.wait(), LIMIT_S)
        return b"-MOVED %d 127.0.0.1:%d\r\n" % (_slot(command[1]), ports[1])

    async def second(_: list[bytes]) -> bytes | None:
        return b"+it is here\r\n" if is_lost.is_set() else None

    async with answering(first) as one, answering(second) as two:
        ports += (one, two)
        link = ClusterLink([Server(HOST, one)], dial, LIMIT_S)
        moved = asyncio.create_task(link.run([(b"GET", key_of(lower))]))
        await asyncio.wait_for(asked.wait(), LIMIT_S)
        with pytest.raises(TrackingListError):
            await link.run([(b"GET", key_of(upper))])
        is_lost.set()
        assert await moved == [b"it is here"]
        await link.close()


async def test_a_master_that_falls_silent_is_hung_up_on() -> None:
    gone = asyncio.Event()

    async def master(_: list[bytes]) -> bytes:
        return b""

    async with answering(master, gone) as port:

        async def sentinel(_: list[bytes]) -> bytes:
            return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(port)), port)

        async with answering(sentinel) as other:
            finder = SentinelDial([Server(HOST, other)], Server("", 0), "mymaster")
            with pytest.raises(TrackingListError, match="no answer in time"):
                await finder.dial()
            await asyncio.wait_for(gone.wait(), LIMIT_S)


@pytest.mark.parametrize("unknown", [None, b""])
def test_a_node_that_does_not_know_its_address_is_where_it_was_asked(unknown: bytes | None) -> None:
    slots = [[0, 16383, [unknown, 7000, b"id"]]]
    assert _masters(slots, "redis.test") == [("redis.test", 7000)]
    assert set(_owners(slots, ("redis.test", 1))) == {("redis.test", 7000)}
