"""The door: one connection at a time, the emptier worker first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from gateway.door import Door


class _Session(asyncio.Protocol):
    """Notes that it was let in."""

    def __init__(self, guests: list[asyncio.BaseTransport]) -> None:
        self._guests = guests

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._guests.append(transport)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listen on a free loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        opened.setblocking(False)
        yield opened


async def _arrived(guests: list[asyncio.BaseTransport], count: int) -> None:
    async with asyncio.timeout(30):
        while len(guests) < count:  # noqa: ASYNC110 - the door has no event to wait for
            await asyncio.sleep(0.001)


async def test_lets_everybody_in_whatever_others_have(listener: socket.socket) -> None:
    """Courtesy is offered once: where no other worker takes a connection, this one does."""
    guests: list[asyncio.BaseTransport] = []
    door = Door(listener, lambda: _Session(guests), lambda: True)
    door.open()
    clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
    await _arrived(guests, 5)
    door.close()
    for client in clients:
        client.close()
    for guest in guests:
        guest.close()


async def test_the_emptier_worker_goes_first(listener: socket.socket) -> None:
    """Two doors of one socket share twenty connections that come at once."""
    shared = listener.dup()
    first: list[asyncio.BaseTransport] = []
    second: list[asyncio.BaseTransport] = []
    doors = [
        Door(listener, lambda: _Session(first), lambda: len(first) > len(second)),
        Door(shared, lambda: _Session(second), lambda: len(second) > len(first)),
    ]
    clients = [socket.create_connection(listener.getsockname()) for _ in range(20)]
    for door in doors:
        door.open()
    async with asyncio.timeout(30):
        while len(first) + len(second) < 20:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
    assert min(len(first), len(second)) >= 7
    for door in doors:
        door.close()
    for client in clients:
        client.close()
    for guest in (*first, *second):
        guest.close()


async def test_a_closed_door_lets_nobody_in(listener: socket.socket) -> None:
    """Not even if it was about to open again after a courtesy."""
    guests: list[asyncio.BaseTransport] = []
    shared = listener.dup()
    door = Door(shared, lambda: _Session(guests), lambda: True)
    door.open()
    with socket.create_connection(listener.getsockname()):
        door.close()
        await asyncio.sleep(0.01)
        assert not guests
