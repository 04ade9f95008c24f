"""What the tracking list could not be told, told later: no outage leaves a hole in what it knows.

The downstream has accepted a message, and the list does not answer: the client has its 250, and a
copy that comes tomorrow would be delivered again. Or it has refused it, and a retry would wait for
the end of a claim that nobody holds any more. So confirmations and releases that fail, or that we
cut off ourselves when we stop, are kept, a bounded number of them, and made up for when the list is
back. A confirmation is told as late as that only where nobody else has spoken: whatever stands
under the id by then, a record or another transaction's claim, stays. A release touches claims of
its own token only, however late it comes.

What is kept is in memory and dies with the worker; then an outage costs what it did before: a
duplicate, or a delay. Nothing here runs in the background, and calls fail as those of the list do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gateway.core.policy import NEW, Sighting
from gateway.core.report import Entry
from gateway.core.unique_id import UniqueId
from gateway.errors import TrackingListError
from gateway.ports import Record, TrackingList

_MOST_IDS = 10_000
_LEASE_S = 60.0
_FAREWELL_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Debt:
    """One transaction's end: records to confirm, or else claims to release."""

    records: Sequence[Record]
    claimed: Sequence[UniqueId]
    token: bytes
    entries: Sequence[Entry]

    @property
    def ids(self) -> int:
        """Count what it holds: each recipient is a record or a claim, and may be an entry, too."""
        return max(1, len(self.records) + len(self.claimed), len(self.entries))


class Arrears:
    """`TrackingList` that remembers which ends of transactions another one has not heard of."""

    __slots__ = ("_list", "_owed", "_owed_ids")

    def __init__(self, tracking_list: TrackingList) -> None:
        """Owe nothing yet.

        Args:
            tracking_list: closed with this one.
        """
        self._list = tracking_list
        self._owed: deque[_Debt] = deque()
        self._owed_ids = 0

    def claim(
        self, unique_ids: Sequence[UniqueId], token: bytes, lease_s: float
    ) -> Coroutine[Any, Any, Sequence[Sighting]]:
        """See `TrackingList.claim`."""
        return self._list.claim(unique_ids, token, lease_s)

    async def confirm(self, records: Sequence[Record], entries: Sequence[Entry] = ()) -> None:
        """See `TrackingList.confirm`. One that fails, or is cut off, is made up for."""
        try:
            await self._list.confirm(records, entries)
        except (TrackingListError, asyncio.CancelledError):
            self._owe(_Debt(records, (), records[0].token, entries))
            raise

    async def release(
        self, unique_ids: Sequence[UniqueId], token: bytes, entries: Sequence[Entry] = ()
    ) -> None:
        """See `TrackingList.release`. One that fails, or is cut off, is made up for."""
        try:
            await self._list.release(unique_ids, token, entries)
        except (TrackingListError, asyncio.CancelledError):
            self._owe(_Debt((), unique_ids, token, entries))
            raise

    async def make_up(self) -> None:
        """Tell the list what is owed, as far as it answers; never raises."""
        with suppress(TrackingListError):  # what is not told stays owed
            while self._owed:
                debt = self._owed[0]
                await self._pay(debt)
                # It may have been given up meanwhile, for the sake of newer ones.
                if self._owed and self._owed[0] is debt:
                    self._drop_oldest()

    async def close(self) -> None:
        """See `TrackingList.close`; what is owed is told, if the list answers."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self.make_up()
        await self._list.close()

    def _owe(self, debt: _Debt) -> None:
        # The newest are worth most: a client that lost our reply tries again within minutes.
        while self._owed and self._owed_ids + debt.ids > _MOST_IDS:
            self._drop_oldest()
        self._owed.append(debt)
        self._owed_ids += debt.ids

    def _drop_oldest(self) -> None:
        self._owed_ids -= self._owed.popleft().ids

    async def _pay(self, debt: _Debt) -> None:
        """Confirm what is free or still claimed by the transaction itself, or release."""
        records: Sequence[Record] = ()
        if debt.records:
            ids = [record.unique_id for record in debt.records]
            sightings = await self._list.claim(ids, debt.token, _LEASE_S)
            records = [r for r, s in zip(debt.records, sightings, strict=True) if s == NEW]
        if records:
            await self._list.confirm(records, debt.entries)
        elif debt.claimed or debt.entries:
            await self._list.release(debt.claimed, debt.token, debt.entries)
