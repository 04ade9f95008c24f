"""What a client sees of a bug of ours: one reply to each command, and its mail is not lost by it.

All other things that an SMTP client can see are in the dialogues; a bug is not in the real gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest

from gateway.core.policy import Sighting
from gateway.desk import Desk
from gateway.edge.tracking_memory import MemoryTrackingList
from gateway.faces.smtp import SmtpSession
from tests.support.session import Recorder, desk_of, reception_of
from tests.support.sink import Sink

_BUG = "a bug"
_ENVELOPE = b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
_CONTENT = b"Message-ID: <%b@sender.test>\r\n\r\nText.\r\n.\r\n"


class _FailsInClaim(MemoryTrackingList):
    """A tracking list with a bug, before anything was said."""

    async def claim(self, *_: object, **__: object) -> Sequence[Sighting]:
        raise ZeroDivisionError(_BUG)


class _FailsInConfirm(MemoryTrackingList):
    """A tracking list with a bug, after the client was told."""

    async def confirm(self, *_: object, **__: object) -> None:
        raise ZeroDivisionError(_BUG)


class _Peer:
    """A client that sends octets and takes replies, line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, octets: bytes, replies: int) -> list[int]:
        """Send octets and return the codes of so many replies."""
        self._writer.write(octets)
        codes: list[int] = []
        async with asyncio.timeout(30):
            while len(codes) < replies:
                line = await self._reader.readline()
                if line[3:4] != b"-":
                    codes.append(int(line[:3] or b"0"))
        return codes

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@asynccontextmanager
async def _served(desk: Desk, recorder: Recorder) -> AsyncIterator[_Peer]:
    """Serve SMTP, and return a client that has said EHLO."""
    reception = reception_of(recorder, lambda: desk)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SmtpSession(reception, loop), "127.0.0.1", 0)
    peer = _Peer(*await asyncio.open_connection(*server.sockets[0].getsockname()))
    try:
        assert await peer.say(b"", 1) == [220]
        assert await peer.say(b"EHLO client.test\r\n", 1) == [250]
        yield peer
    finally:
        await peer.close()
        server.close()
        assert await reception.emptied(30.0)


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server


FAULTS = [
    (_FailsInClaim, 451, 0, "before anybody has got it: the client tries again"),
    (_FailsInConfirm, 250, 1, "when the client has its reply: it gets no second one"),
]


@pytest.mark.parametrize(("kind", "code", "delivered", "reason"), FAULTS, ids=["claim", "confirm"])
async def test_p1_a_bug_costs_one_reply_at_most(
    kind: Callable[[], MemoryTrackingList], code: int, delivered: int, reason: str, sink: Sink
) -> None:
    sink.forget()
    recorder = Recorder()
    async with _served(desk_of(kind(), sink.port, recorder), recorder) as peer:
        for number in (b"1", b"2"):
            assert await peer.say(_ENVELOPE, 3) == [250, 250, 354], reason
            assert await peer.say(_CONTENT % number, 1) == [code], reason
            # A reply too many would be taken for this command's.
            assert await peer.say(b"VRFY x\r\n", 1) == [252], reason
        assert await peer.say(b"QUIT\r\n", 1) == [221]
    assert len(sink.accepted) == 2 * delivered
    assert len(recorder.reports) == 2 * delivered
