"""Tracking list in the memory of one process: what a tracking list means, in the plainest terms.

For tests, demonstrations and a single worker; a restart forgets everything. Not shared by workers,
so no claim can outlive its worker. Never fails.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from gateway.core.policy import IN_FLIGHT, NEW, Sight, Sighting
from gateway.core.report import Entry, as_text
from gateway.core.unique_id import UniqueId
from gateway.ports import Record


@dataclass(frozen=True, slots=True)
class _Claim:
    token: bytes
    ends_at: float


@dataclass(frozen=True, slots=True)
class _Known:
    sighting: Sighting
    ends_at: float


class MemoryTrackingList:
    """`TrackingList` and `History` of one process."""

    def __init__(
        self,
        *,
        entries: int = 100_000,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Start with nothing.

        Args:
            entries: how many the journal keeps.
            monotonic: seconds since anything, never set back.
            now: Unix time.
        """
        self._monotonic = monotonic
        self._now = now
        self._held: dict[UniqueId, _Claim | _Known] = {}
        self._ends: list[tuple[float, int, UniqueId]] = []
        self._serial = count()
        self._journal: deque[Entry] = deque(maxlen=entries)

    async def claim(
        self, unique_ids: Sequence[UniqueId], token: bytes, lease_s: float
    ) -> Sequence[Sighting]:
        """See `TrackingList.claim`."""
        self._purge()
        return [self._claim(unique_id, token, lease_s) for unique_id in unique_ids]

    async def confirm(self, records: Sequence[Record], entries: Sequence[Entry] = ()) -> None:
        """See `TrackingList.confirm`."""
        for record in records:
            sighting = Sighting(
                Sight.SEEN,
                record.first_seen_s,
                record.fingerprint,
                record.copies,
                record.note,
                record.provisional_at_s,
                record.is_retry_due,
            )
            left_s = min(record.first_seen_s + record.window_s - self._now(), record.window_s)
            self._keep(record.unique_id, _Known(sighting, self._monotonic() + left_s))
        self._journal.extend(entries)

    async def release(
        self, unique_ids: Sequence[UniqueId], token: bytes, entries: Sequence[Entry] = ()
    ) -> None:
        """See `TrackingList.release`."""
        for unique_id in unique_ids:
            held = self._held.get(unique_id)
            if isinstance(held, _Claim) and held.token == token:
                del self._held[unique_id]
        self._journal.extend(entries)

    async def close(self) -> None:
        """See `TrackingList.close`."""
        self._held.clear()
        self._ends.clear()
        self._journal.clear()

    async def trail(self, identity: bytes, limit: int) -> Sequence[Entry]:
        """See `History.trail`."""
        message_id = as_text(identity)
        found = [entry for entry in self._journal if entry.message_id == message_id]
        return found[-limit:]

    async def latest(self, limit: int) -> Sequence[Entry]:
        """See `History.latest`."""
        return list(self._journal)[: -limit - 1 : -1]

    async def known(self, message: bytes) -> Sequence[tuple[UniqueId, Sighting]]:
        """See `History.known`."""
        self._purge()
        return [
            (unique_id, held.sighting if isinstance(held, _Known) else IN_FLIGHT)
            for unique_id, held in self._held.items()
            if unique_id.message == message
        ]

    async def forget(self, message: bytes, recipient: bytes | None) -> int:
        """See `History.forget`."""
        self._purge()
        doomed = [
            unique_id
            for unique_id in self._held
            if unique_id.message == message and recipient in (None, unique_id.recipient)
        ]
        for unique_id in doomed:
            del self._held[unique_id]
        return len(doomed)

    def _claim(self, unique_id: UniqueId, token: bytes, lease_s: float) -> Sighting:
        held = self._held.get(unique_id)
        if isinstance(held, _Known):
            return held.sighting
        if held is not None and held.token != token:
            return IN_FLIGHT
        self._keep(unique_id, _Claim(token, self._monotonic() + lease_s))
        return NEW

    def _keep(self, unique_id: UniqueId, held: _Claim | _Known) -> None:
        self._held[unique_id] = held
        heappush(self._ends, (held.ends_at, next(self._serial), unique_id))

    def _purge(self) -> None:
        now = self._monotonic()
        while self._ends and self._ends[0][0] <= now:
            _, _, unique_id = heappop(self._ends)
            held = self._held.get(unique_id)
            # It may have been renewed or replaced since: then another end is waiting for it.
            if held is not None and held.ends_at <= now:
                del self._held[unique_id]
