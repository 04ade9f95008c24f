"""The tracking list's past, for pages and API: asked within a bounded time.

Every method raises `TrackingListError` if the list does not answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from gateway.core.report import Entry
from gateway.core.story import Story
from gateway.core.unique_id import Identity, Sealer
from gateway.errors import TrackingListError
from gateway.ports import History
from gateway.recall import Recall

SCANNED = 2_000
"""Newest entries among which a filter looks."""

_T = TypeVar("_T")
_PATIENCE_S = 5.0
_FRESH_S = 2.0


class Lookup:
    """Asks the list; what every page shows is kept for a moment."""

    def __init__(self, history: History, sealer: Sealer, patience_s: float = _PATIENCE_S) -> None:
        """Ask nothing yet.

        Args:
            history: to ask.
            sealer: of the same list.
            patience_s: for each answer.
        """
        self._history = history
        self._recall = Recall(history, sealer)
        self._patience_s = patience_s
        self._newest: Sequence[Entry] = ()
        self._read_at = float("-inf")

    async def newest(self) -> Sequence[Entry]:
        """Return the newest journal entries, newest first, at most two seconds old."""
        if time.monotonic() - self._read_at > _FRESH_S:
            self._newest = await self._within(self._history.latest(SCANNED))
            self._read_at = time.monotonic()
        return self._newest

    async def story(self, identities: Sequence[Identity]) -> Story:
        """Return what is known of a message; see `Recall.story_of`."""
        return await self._within(self._recall.story_of(identities))

    async def forget(self, identities: Sequence[Identity], recipient: bytes) -> int:
        """Forget a message for a recipient, ``b""`` for all; return how many things were held."""
        return (await self._within(self._recall.forget(identities, recipient or None))).number

    async def _within(self, work: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._patience_s):
                return await work
        except TimeoutError as error:
            raise TrackingListError(f"no answer within {self._patience_s:g} s") from error
