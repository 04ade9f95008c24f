"""The past of a list in memory, for the console: only the worker that holds the list knows it.

HTTP is served by the supervisor, so it asks the worker over the control channel, as `History`.
Fails with `TrackingListError` while there is no worker to ask. Any other list is asked directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Any

from gateway.control import Asked, Method, Told, sent
from gateway.core.policy import Sighting
from gateway.core.report import Entry
from gateway.core.unique_id import UniqueId
from gateway.errors import TrackingListError


class Inquiry:
    """`History` of a worker."""

    def __init__(self) -> None:
        """Have nobody to ask yet."""
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = count()
        self._pending: dict[int, asyncio.Future[Any]] = {}

    def attach(self, writer: asyncio.StreamWriter) -> None:
        """Ask the worker at the other end of this channel from now on."""
        self._writer = writer

    def detach(self, writer: asyncio.StreamWriter) -> None:
        """Give up on what a worker that is gone was asked."""
        if self._writer is writer:
            self._writer = None
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(TrackingListError("the worker with the list is gone"))

    def take(self, told: Told) -> None:
        """Take an answer; nobody may be waiting for it any more."""
        future = self._pending.get(told.number)
        if future is not None and not future.done():
            future.set_result(told.answer)

    async def trail(self, identity: bytes, limit: int) -> Sequence[Entry]:
        """See `History`."""
        answer: Sequence[Entry] = await self._ask("trail", identity, limit)
        return answer

    async def latest(self, limit: int) -> Sequence[Entry]:
        """See `History`."""
        answer: Sequence[Entry] = await self._ask("latest", limit)
        return answer

    async def known(self, message: bytes) -> Sequence[tuple[UniqueId, Sighting]]:
        """See `History`."""
        answer: Sequence[tuple[UniqueId, Sighting]] = await self._ask("known", message)
        return answer

    async def forget(self, message: bytes, recipient: bytes | None) -> int:
        """See `History`."""
        answer: int = await self._ask("forget", message, recipient)
        return answer

    async def _ask(self, method: Method, *arguments: object) -> Any:  # noqa: ANN401 - see callers
        if self._writer is None or self._writer.is_closing():
            raise TrackingListError("there is no worker to ask")
        number = next(self._numbers)
        self._pending[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(sent(Asked(number, method, arguments)))
            return await self._pending[number]
        finally:
            del self._pending[number]
