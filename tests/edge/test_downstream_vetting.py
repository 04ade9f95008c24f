"""Whoever waits for a server to be vetted waits for the same answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.core.handover import Client, HandOver
from gateway.edge.downstream import DownstreamConnector
from gateway.edge.downstream_session import ServerAddress, SessionSettings
from gateway.errors import RelayOpenError, UnreachableError
from gateway.ports import OpenDownstream
from tests.support.sink import Sink

_SETTINGS = SessionSettings(HandOver.NONE, "gateway.test", None, False, 30.0, 30.0, 30.0)
_CLIENTS = 20


class _Guard:
    """Takes its time; then each server's question is answered as it was told."""

    def __init__(self) -> None:
        self.asked = 0
        self.failure: Exception | None = None
        self.has_been_asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def vet(self, open_downstream: OpenDownstream) -> None:
        del open_downstream
        self.asked += 1
        self.has_been_asked.set()
        await self.may_answer.wait()
        if self.failure is not None:
            raise self.failure


def _connector(guard: _Guard, sink: Sink) -> DownstreamConnector:
    server = ServerAddress(is_lmtp=False, host="127.0.0.1", port=sink.port)
    return DownstreamConnector([server], _SETTINGS, lambda *_: None, lambda _: None, guard.vet)


async def _all_wait(guard: _Guard, connector: DownstreamConnector) -> Sequence[object]:
    """Open sessions for many clients while the guard asks; return what each gets in the end."""
    opening = [asyncio.create_task(connector.open(Client())) for _ in range(_CLIENTS)]
    await guard.has_been_asked.wait()
    opening[0].cancel()  # who set it off need not be there for the answer
    guard.may_answer.set()
    async with asyncio.timeout(30):
        ends = await asyncio.gather(*opening, return_exceptions=True)
    assert isinstance(ends[0], asyncio.CancelledError)
    return ends[1:]


async def test_p8_a_failure_is_everybodys_who_waited_for_it() -> None:
    """One after the other, the twentieth would wait for twenty time-outs of a dead server."""
    guard = _Guard()
    guard.failure = UnreachableError("silent")
    with Sink() as sink:
        ends = await _all_wait(guard, _connector(guard, sink))
    assert [type(end) for end in ends] == [UnreachableError] * (_CLIENTS - 1)
    assert guard.asked == 1


async def test_p5_nobody_gets_through_before_the_answer_and_a_bad_one_is_asked_for_anew() -> None:
    guard = _Guard()
    guard.failure = RelayOpenError("open")
    with Sink() as sink:
        connector = _connector(guard, sink)
        ends = await _all_wait(guard, connector)
        assert [type(end) for end in ends] == [RelayOpenError] * (_CLIENTS - 1)
        assert not sink.sessions
        guard.failure = None
        for asked in (2, 2):
            session = await connector.open(Client())
            await session.close(politely=False)
            assert guard.asked == asked
