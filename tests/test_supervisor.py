"""The supervisor when the machine has nothing to spare."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from gateway.config import config_of
from gateway.control import Asked, sent
from gateway.edge.journal import LogJournal
from gateway.edge.metrics import Metrics
from gateway.guard import Proof, Standing
from gateway.listener import open_all
from gateway.shared_memory import SharedMemory
from gateway.supervisor import Supervisor
from tests.support.tracking import eventually


class _Complaints(LogJournal):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def complain(self, event: str, reason: str) -> None:
        self.reasons.append(f"{event}: {reason}")

    def have(self, words: str) -> bool:
        return any(words in reason for reason in self.reasons)


@contextlib.asynccontextmanager
async def _supervising() -> AsyncIterator[tuple[Supervisor, _Complaints]]:
    """Have one worker, started."""
    config = config_of({"listen": {"smtp": ["127.0.0.1:0"]}, "store": {"url": "memory://"}})
    memory, complaints = SharedMemory(1), _Complaints()
    (listener,) = open_all("listen.smtp", config.listen.smtp)
    supervisor = Supervisor(
        config,
        Proof(Standing.SAFE),
        smtp=[listener],
        milter=[],
        memory=memory,
        census_key=secrets.token_bytes(16),
        journal=complaints,
        metrics=Metrics(memory.block(1)),
    )
    with listener:
        await supervisor.start()
        try:
            yield supervisor, complaints
        finally:
            await supervisor.stop()


async def test_a_worker_that_cannot_be_started_now_is_started_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed for want of memory, it may not be had anew at once; nobody else would try."""
    async with _supervising() as (supervisor, complaints):
        with monkeypatch.context() as poor:
            poor.setattr(sys, "executable", "/nonexistent/python")
            process = supervisor._places[0].process
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)
            await eventually(lambda: _true(complaints.have("cannot be started")))
        assert supervisor.alive == 0
        await eventually(lambda: _true(supervisor.alive == 1))


async def test_a_worker_that_hears_nothing_any_more_is_replaced() -> None:
    """P5: it would go on after a relay probe that failed."""
    async with _supervising() as (supervisor, complaints):
        (place,) = supervisor._places
        first, writer = place.process, place.writer
        assert writer is not None
        writer.write(sent(Asked(0, "nonsense", ())))  # type: ignore[arg-type] # a fault of ours
        await eventually(lambda: _true(complaints.have("worker 0")))
        await eventually(lambda: _true(place.process is not first and supervisor.alive == 1))


async def _true(value: bool) -> bool:
    return value
