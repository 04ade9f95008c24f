"""How a connection ends: in lockstep with the session, and seen from within."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from gateway.core import answer
from gateway.desk import Desk
from gateway.edge.tracking_memory import MemoryTrackingList
from gateway.faces.smtp import SmtpSession
from gateway.faces.smtp_output import _FULL_OCTETS
from tests.support.session import IDLE_TIMEOUT_S, Recorder, desk_of, reception_of
from tests.support.sink import Sink
from tests.support.tracking import eventually

_SOON_S = IDLE_TIMEOUT_S / 2  # an end, not a time-out


def _no_desk() -> Desk:
    raise AssertionError("no mail is sent")


async def _read_to_the_end(client: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    said = b""
    async with asyncio.timeout(_SOON_S):
        while octets := await loop.sock_recv(client, 1 << 20):
            said += octets
    return said


async def test_who_was_behind_with_reading_when_we_stop_is_told_and_let_go() -> None:
    """It was not at rest, and it has nothing more to say: nothing else will ever wake the session.

    Without a look at what happened meanwhile it would hold the drain up to its end.
    """
    loop, recorder = asyncio.get_running_loop(), Recorder()
    reception = reception_of(recorder, _no_desk)
    # As much as fills the session's own buffer with its last line: only then it waits for the
    # client to read while there is nothing left to do.
    burst = b"HELP\r\n" * (_FULL_OCTETS // len(answer.HELP.wire) + 1)
    ours, client = socket.socketpair()
    with client:
        client.setblocking(False)
        _, session = await loop.connect_accepted_socket(lambda: SmtpSession(reception, loop), ours)

        async def is_served() -> bool:
            is_waiting = session._is_at_rest or session._output.is_paused
            return is_waiting and not session._input.has_more

        assert (await loop.sock_recv(client, 512)).startswith(b"220 ")
        while not session._output.is_paused:
            session.data_received(burst)
            await eventually(is_served)
        assert not session._is_at_rest
        reception.stop()
        said = await _read_to_the_end(client)
    assert said.endswith(answer.HELP.wire + answer.STOPPING.wire)
    assert await reception.emptied(_SOON_S)
    assert recorder.result == "ok"


_ENVELOPE = b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
_HEAD = b"Message-ID: <%b@sender.test>\r\n\r\n"
# What the client says, and how many lines of replies it waits for behind each.
ENDS = [
    ([(b"QUIT\r\n", 1)], "with a farewell"),
    ([], "between two commands"),
    ([(_ENVELOPE, 3)], "before any content"),
    ([(_ENVELOPE, 3), (_HEAD % b"partly", 0)], "within content"),
    ([(_ENVELOPE, 3), (_HEAD % b"wholly" + b"Text.\r\n.\r\n", 1)], "behind a message"),
    ([(_ENVELOPE, 3), (_HEAD % b"unread" + b"Text.\r\n.\r\n", 0)], "before the reply to one"),
]


@pytest.mark.parametrize("is_cut", [False, True], ids=["hangs-up", "is-cut"])
@pytest.mark.parametrize(("steps", "reason"), ENDS, ids=[row[1] for row in ENDS])
async def test_p8_no_end_of_a_session_leaves_a_task_behind(
    steps: Sequence[tuple[bytes, int]], reason: str, is_cut: bool
) -> None:
    """P8: what runs on costs memory with each client that comes and goes."""
    loop, recorder = asyncio.get_running_loop(), Recorder()
    with Sink() as sink:
        desk = desk_of(MemoryTrackingList(), sink.port, recorder)
        reception = reception_of(recorder, lambda: desk)
        before = asyncio.all_tasks()
        server = await loop.create_server(lambda: SmtpSession(reception, loop), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        async with asyncio.timeout(_SOON_S):
            for octets, replies in [(b"HELO client.test\r\n", 2), *steps]:
                writer.write(octets)
                for _ in range(replies):
                    assert await reader.readline(), reason
        if is_cut:
            reception.cut()
        else:
            writer.transport.abort()
        assert await reception.emptied(_SOON_S)

        async def is_alone() -> bool:
            return asyncio.all_tasks() <= before

        await eventually(is_alone)
        writer.transport.abort()
        server.close()
