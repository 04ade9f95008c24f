"""How a connection ends that no real client could be timed for: in lockstep with the session."""

from __future__ import annotations

import asyncio
import socket

from gateway.core import answer
from gateway.desk import Desk
from gateway.faces.smtp import SmtpSession
from gateway.faces.smtp_output import _FULL_OCTETS
from tests.support.session import IDLE_TIMEOUT_S, Recorder, reception_of
from tests.support.tracking import eventually

_SOON_S = IDLE_TIMEOUT_S / 6  # an end, not a time-out


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
