"""HTTP is bounded, too (P8): who says nothing, or comes too often, takes nothing from others."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gateway.faces import http, http_request
from gateway.faces.http_guard import Access
from tests.support.console import Console, serving

_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
_FORM = (
    b"POST /login HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n"
)
_LOOPBACK = Access(is_loopback=True)
_GUARD_S = 30.0


@pytest.mark.parametrize(
    ("octets", "answer"),
    [
        (b"", b""),  # nothing at all
        (_HEALTH[:20], b""),  # half a request
        (_HEALTH, b"HTTP/1.1 200 OK"),  # one, and no second
        (_FORM + b"tok", b"HTTP/1.1 408 Request Timeout"),  # half a form
    ],
)
async def test_who_says_no_more_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, octets: bytes, answer: bytes
) -> None:
    monkeypatch.setattr(http, "_SILENCE_S", 0.2)
    monkeypatch.setattr(http_request, "_PATIENCE_S", 0.2)
    async with serving(Console(), _LOOPBACK) as console:
        reader, writer = await asyncio.open_connection("127.0.0.1", console.port)
        writer.write(octets)
        async with asyncio.timeout(_GUARD_S):
            heard = await reader.read()
        writer.close()
    assert heard.partition(b"\r\n")[0] == answer


async def test_there_is_a_limit_to_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MAX_CONNECTIONS", 2)
    async with serving(Console(), _LOOPBACK) as console, asyncio.timeout(_GUARD_S):
        held = [await asyncio.open_connection("127.0.0.1", console.port) for _ in range(2)]
        for reader, writer in held:
            writer.write(_HEALTH)
            assert (await reader.readuntil(b"alive\n")).startswith(b"HTTP/1.1 200")
        reader, writer = await asyncio.open_connection("127.0.0.1", console.port)
        assert await reader.read() == b""
        writer.close()
        held[0][1].close()
        is_let_in = False
        while not is_let_in:  # one has gone, and another may come, as soon as that is noticed
            reader, writer = await asyncio.open_connection("127.0.0.1", console.port)
            with contextlib.suppress(ConnectionError):
                writer.write(_HEALTH)
                is_let_in = bool(await reader.read(8))
            writer.close()
        held[1][1].close()


async def test_browsers_find_no_fault_when_they_ask_for_an_icon() -> None:
    for access in (_LOOPBACK, Access(is_loopback=False, token="t")):
        async with serving(Console(), access) as console:
            reader, writer = await asyncio.open_connection("127.0.0.1", console.port)
            writer.write(b"GET /favicon.ico HTTP/1.0\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(_GUARD_S):
                assert (await reader.read()).startswith(b"HTTP/1.0 204 ")
            writer.close()
