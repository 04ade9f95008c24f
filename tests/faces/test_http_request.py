"""Whoever reaches the port may send what makes no sense: it is answered, and not logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from yarl import URL

from gateway.faces.http_guard import Access
from tests.support.console import Console, serving

_GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
_POST = b"POST /login HTTP/1.1\r\nHost: localhost\r\n"
_FORM = _POST + b"Content-Type: application/x-www-form-urlencoded"
_PARTS = _POST + b"Content-Type: multipart/form-data"
_NO_ENCODING = (
    b"--x\r\nContent-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: z\r\n\r\n"
)
_UNREADABLE = [
    (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "TLS"),
    (b"GET / HTTP/9.9\r\n\r\n", "another version"),
    (b"GET /\xff\xfe HTTP/1.1\r\n\r\n", "octets in the path"),
    (b"GET http://a:b/ HTTP/1.1\r\n\r\n", "a port that is no number"),
    (b"CONNECT :: HTTP/1.1\r\n\r\n", "a host that is none"),
    (b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * 20_000), "an endless line"),
    (_GET + b"X: %b\r\n\r\n" % (b"x" * 20_000), "an endless field"),
    (_GET + b"b ad: x\r\n\r\n", "a blank in a name"),
    (_GET + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", "two lengths"),
    (_FORM + b"\r\nContent-Length: -1\r\n\r\nabc", "a negative length"),
    (_FORM + b"\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", "a chunk of no size"),
    (_FORM + b"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcZZ", "a chunk without end"),
    (_FORM + b"\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde", "no gzip"),
    (_FORM + b"\r\nContent-Length: 100\r\n\r\n" + b"a=1&" * 25, "many fields"),
]
_NO_TOKEN = [
    (_FORM + b"\r\nContent-Length: 7\r\n\r\ntoken=\xff", "a token that is not UTF-8"),
    (_FORM + b"\r\nContent-Length: 15\r\n\r\ntoken=%ed%a0%80", "half a character"),
    (_FORM + b"; charset=nonsense\r\nContent-Length: 7\r\n\r\ntoken=1", "no character set"),
    (_FORM + b"; charset=base64\r\nContent-Length: 7\r\n\r\ntoken=1", "no set of characters"),
    (_FORM + b"; charset=utf-16\r\nContent-Length: 7\r\n\r\ntoken=1", "an odd number of octets"),
    (_PARTS + b"\r\nContent-Length: 5\r\n\r\nabcde", "parts without a boundary"),
    (_PARTS + b"; boundary=x\r\nContent-Length: 5\r\n\r\nabcde", "no parts"),
    (
        _PARTS + b"; boundary=x\r\nContent-Length: 100\r\n\r\n" + _NO_ENCODING.ljust(100),
        "a part in an unknown encoding",
    ),
    (_POST + b"Content-Length: 7\r\n\r\ntoken=1", "a form that does not say so"),
]
RAW = [
    *[(octets, 400, reason) for octets, reason in _UNREADABLE],
    *[(octets, 403, reason) for octets, reason in _NO_TOKEN],
    (
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: text/plain;version=x\r\n\r\n",
        200,
        "an Accept field with a version that is no number",
    ),
    (
        b"GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text;version=2.\xff\r\n\r\n",
        200,
        "an Accept field that is not ASCII",
    ),
    (_FORM + b"\r\nContent-Length: 99999\r\n\r\n" + b"a" * 99_999, 413, "an endless form"),
]


@pytest.fixture
async def console() -> AsyncIterator[Console]:
    async with serving(Console(), Access(is_loopback=False, token="x" * 20)) as served:
        yield served


async def _status(console: Console, octets: bytes) -> int:
    """Send just these octets, and return the status of the answer."""
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(console.url).port)
        writer.write(octets)
        status = int((await reader.readline()).split()[1])
        writer.transport.abort()
    return status


@pytest.mark.parametrize(("octets", "status", "reason"), RAW, ids=[row[2] for row in RAW])
async def test_p8_nobody_fills_the_log_from_outside(
    console: Console, octets: bytes, status: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await _status(console, octets) == status, reason
    # Some of it is found out only behind the answer; the next one comes when that is over.
    assert await _status(console, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200
    loud = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert not loud, reason


async def test_a_bug_of_ours_is_still_an_error_in_the_log(
    console: Console, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("gateway.faces.http.login_page", fail)
    assert await _status(console, b"GET /login HTTP/1.1\r\nHost: localhost\r\n\r\n") == 500
    assert [record.levelname for record in caplog.records] == ["ERROR"]
