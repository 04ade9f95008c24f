"""Many callers, one round trip: what is asked while a batch is under way makes up the next one.

A single task carries the batches, so that nobody who stops waiting can stop a batch or leave
replies unread. What the commands mean may not live here, nor how they travel.

A failed batch fails with `TrackingListError` for all whose commands it carried; a single refused
command only for its caller.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.edge.redis_link import Command, RedisLink
from gateway.errors import TrackingListError

# Enough to make the round trip cheap; a bound for its memory and for the server's latency.
_BATCH_COMMANDS = 1000


class Upkeep(Protocol):
    """Commands of the list itself that ride along in front of every batch."""

    def greeting(self) -> Sequence[Command]:
        """Return what a new connection must begin with."""

    def due(self) -> Sequence[Command]:
        """Return what must precede the next batch; called once per batch."""

    def done(self, replies: Sequence[object]) -> None:
        """Take the replies to what `due` returned last; not called if the batch failed."""


@dataclass(slots=True, eq=False)
class _Call:
    commands: Sequence[Command]
    replies: asyncio.Future[list[object]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Batcher:
    """Gathers commands and sends them batch after batch."""

    def __init__(self, link: RedisLink, upkeep: Upkeep) -> None:
        """Take the link, which nobody else may use, and what rides along."""
        self._link = link
        self._upkeep = upkeep
        self._waiting: deque[_Call] = deque()
        self._carrier: asyncio.Task[None] | None = None
        self._is_closed = False

    async def run(self, commands: Sequence[Command]) -> list[object]:
        """Send commands with the next batch; they stay together and in order.

        A caller that is cancelled before its commands were sent takes them back; later they run.

        Returns:
            One reply per command; none is an error.

        Raises:
            TrackingListError: the batch failed, or Redis refused one of these commands.
        """
        if self._is_closed:
            raise TrackingListError("redis: closed")
        call = _Call(commands)
        self._waiting.append(call)
        if self._carrier is None:
            self._carrier = asyncio.create_task(self._carry())
        replies = await call.replies
        for reply in replies:
            if isinstance(reply, Exception):
                raise TrackingListError(f"redis: {reply}") from reply
        return replies

    async def close(self) -> None:
        """Refuse what comes from now on, finish what was asked before, close the link."""
        self._is_closed = True
        if self._carrier is not None:
            await asyncio.wait({self._carrier})
        await self._link.close()

    async def _carry(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            try:
                await self._send(batch)
            except Exception as error:
                _fail(batch, error)
            except BaseException:
                # The event loop is being torn down: nobody must be left waiting.
                _fail((*batch, *self._waiting), TrackingListError("redis: stopped"))
                self._waiting.clear()
                raise
        self._carrier = None

    def _next_batch(self) -> list[_Call]:
        batch: list[_Call] = []
        room = _BATCH_COMMANDS
        while self._waiting and (not batch or len(self._waiting[0].commands) <= room):
            call = self._waiting.popleft()
            if not call.replies.cancelled():
                batch.append(call)
                room -= len(call.commands)
        return batch

    async def _send(self, batch: Sequence[_Call]) -> None:
        due = self._upkeep.due()
        commands = [*due, *(command for call in batch for command in call.commands)]
        replies = []
        if commands:
            replies = await self._link.exchange(commands, self._upkeep.greeting())
        self._upkeep.done(replies[: len(due)])
        start = len(due)
        for call in batch:
            end = start + len(call.commands)
            if not call.replies.done():
                call.replies.set_result(replies[start:end])
            start = end


def _fail(batch: Sequence[_Call], error: Exception) -> None:
    for call in batch:
        if call.replies.done():
            continue
        if isinstance(error, TrackingListError):
            # One instance each: they collect the tracebacks of different callers.
            failure: Exception = TrackingListError(*error.args)
            failure.__cause__ = error.__cause__
        else:
            failure = error
        call.replies.set_exception(failure)
