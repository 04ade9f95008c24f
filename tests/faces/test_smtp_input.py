"""P8 bounded: what a client sends faster than it is taken waits in its own buffers, not in ours."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from gateway.errors import ClientSilentError
from gateway.faces.smtp_input import Input

_BLOCK = b"X" * 65_536


class _Reading:
    """The one thing of a transport that matters here: whether it is read from."""

    def __init__(self) -> None:
        self._is_reading = True

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True

    def is_reading(self) -> bool:
        return self._is_reading


def _input() -> tuple[Input, _Reading]:
    client = Input(asyncio.get_running_loop(), lambda: None)
    transport = _Reading()
    client.attach(cast("asyncio.Transport", transport))
    return client, transport


async def test_reading_stops_while_nobody_takes() -> None:
    client, transport = _input()
    client.feed(_BLOCK)
    client.feed(_BLOCK)
    assert not transport.is_reading()
    client.close()


async def test_reading_stops_although_somebody_waits_whose_turn_has_not_come() -> None:
    client, transport = _input()
    waiting = asyncio.ensure_future(client.exactly(10, 60.0))
    await asyncio.sleep(0)
    client.feed(_BLOCK)
    client.feed(_BLOCK)
    assert not transport.is_reading()
    assert await waiting == b"X" * 10
    assert not transport.is_reading(), "there is enough to do"
    client.take_block()
    assert transport.is_reading()
    client.close()


async def test_reading_goes_on_for_one_who_wants_more_than_waits() -> None:
    client, transport = _input()
    waiting = asyncio.ensure_future(client.exactly(3 * len(_BLOCK), 60.0))
    await asyncio.sleep(0)
    client.feed(_BLOCK)
    client.feed(_BLOCK)
    assert not transport.is_reading()
    await asyncio.sleep(0)
    assert transport.is_reading()
    client.feed(_BLOCK)
    assert await waiting == 3 * _BLOCK
    client.close()


async def test_a_line_that_comes_bit_by_bit_has_its_time_out_as_a_whole() -> None:
    client, _ = _input()
    waiting = asyncio.ensure_future(client.line(2048, 0.3))
    async with asyncio.timeout(30):
        while not waiting.done():
            client.feed(b"N")
            await asyncio.sleep(0.05)
    with pytest.raises(ClientSilentError):
        await waiting
    client.close()


async def test_what_is_skipped_has_its_time_out_as_a_whole() -> None:
    client, _ = _input()
    waiting = asyncio.ensure_future(client.skip_line(2048, 0.3))
    async with asyncio.timeout(30):
        while not waiting.done():
            client.feed(b"N")
            await asyncio.sleep(0.05)
    with pytest.raises(ClientSilentError):
        await waiting
    client.close()


async def test_reading_does_not_go_on_with_each_line_taken() -> None:
    """Or a client that sends faster than it is served would have it all wait here."""
    client, transport = _input()
    for _ in range(2):
        client.feed(b"NOOP\r\n" * 10_000)
    for _ in range(15_000):
        assert client.take_line() == b"NOOP\r\n"
        assert not transport.is_reading()
    while client.take_line() is not None:
        pass
    assert transport.is_reading()
    client.close()
