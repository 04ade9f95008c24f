"""Tracking list in Redis (7.0 or later; single server, Sentinel or Cluster).

What a claim, a confirmation and a release mean in Redis, and nothing of connections (`redis_link`),
round trips (`redis_batch`) or octets (`redis_layout`). Every key has an end of its own; windows and
leases are kept by the server.

Fails with `TrackingListError`, outcome unknown. Then the claim may stand without anybody knowing:
it is remembered and released with a later batch, by its token, which never touches a record.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Sequence
from itertools import islice

from gateway.core.policy import IN_FLIGHT, NEW, Sighting
from gateway.core.unique_id import UniqueId
from gateway.edge import redis_layout as layout
from gateway.edge.redis_batch import Batcher
from gateway.edge.redis_link import Command, RedisLink, open_link
from gateway.errors import TrackingListError
from gateway.ports import Record

BEAT_S = 10.0
BEAT_TTL_S = 30.0
_MIN_WINDOW_S = 1.0
_MAX_ORPHANS = 10_000
_ORPHANS_PER_BATCH = 100


def connect(
    url: str, timeout_s: float, *, now: Callable[[], float] = time.time
) -> RedisTrackingList:
    """Return the tracking list at a URL; nothing is opened before its first use.

    Args:
        url: see `redis_link.open_link`.
        timeout_s: for each connect and each round trip.
        now: Unix time in seconds.

    Raises:
        ConfigError: the URL cannot be understood.
    """
    return RedisTrackingList(open_link(url, timeout_s), now=now)


class RedisTrackingList:
    """`TrackingList` shared by all that use the same Redis."""

    def __init__(
        self,
        link: RedisLink,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Become one worker of the list; one instance per process.

        Args:
            link: to Redis; nobody else may use it.
            now: Unix time in seconds.
            monotonic: seconds since anything, never set back.
        """
        self._now = now
        self._worker = secrets.token_bytes(layout.WORKER_OCTETS)
        self._upkeep = _Upkeep(self._worker, monotonic)
        self._batcher = Batcher(link, self._upkeep)
        self._heart: asyncio.Task[None] | None = None
        self._is_closed = False

    async def claim(
        self, unique_ids: Sequence[UniqueId], token: bytes, lease_s: float
    ) -> Sequence[Sighting]:
        """See `TrackingList.claim`."""
        if self._heart is None and not self._is_closed:
            self._heart = asyncio.create_task(self._beat_for_ever())
        self._upkeep.adopt(unique_ids, token)
        try:
            return await self._claim(unique_ids, token, math.ceil(lease_s * 1000))
        except (TrackingListError, asyncio.CancelledError):
            self._upkeep.orphan(unique_ids, token)
            raise

    async def confirm(self, records: Sequence[Record]) -> None:
        """See `TrackingList.confirm`."""
        now = self._now()
        await self._batcher.run([self._confirmation(record, now) for record in records])

    async def release(self, unique_ids: Sequence[UniqueId], token: bytes) -> None:
        """See `TrackingList.release`. One that fails is made up for with a later batch."""
        try:
            await self._batcher.run([layout.delete_claims(unique_ids, token)])
        except (TrackingListError, asyncio.CancelledError):
            self._upkeep.orphan(unique_ids, token)
            raise

    async def close(self) -> None:
        """See `TrackingList.close`."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._heart is not None:
            self._heart.cancel()
            try:
                # Others need not wait for the heartbeat to run out.
                await self._batcher.run([layout.delete_beat(self._worker)])
            except TrackingListError:
                pass
        await self._batcher.close()

    async def _claim(
        self, unique_ids: Sequence[UniqueId], token: bytes, lease_ms: int
    ) -> list[Sighting]:
        claim = layout.Claim(self._worker, token)
        values = await self._batcher.run(
            [layout.set_claim(unique_id, claim, lease_ms) for unique_id in unique_ids]
        )
        sightings: list[Sighting] = []
        taken: dict[int, bytes] = {}
        for index, value in enumerate(values):
            found = layout.decoded(value) if isinstance(value, bytes) else NEW
            if isinstance(found, Sighting):
                sightings.append(found)
            else:
                assert isinstance(value, bytes)
                taken[index] = value
                sightings.append(IN_FLIGHT)
        if taken:
            for index in await self._retaken(unique_ids, taken, claim, lease_ms):
                sightings[index] = NEW
        return sightings

    async def _retaken(
        self, unique_ids: Sequence[UniqueId], taken: dict[int, bytes], claim: layout.Claim, lease_ms: int
    ) -> list[int]:
        """Take what is ours already, a dead worker's, or nothing that can be read."""
        dead = await self._dead_workers(taken.values(), claim)
        free = [index for index, value in taken.items() if _is_free(value, claim.token, dead)]
        if not free:
            return []
        answers = await self._batcher.run(
            [layout.swap_claim(unique_ids[i], taken[i], claim, lease_ms) for i in free]
        )
        # Whatever came between is in flight as far as we know; the caller will ask again.
        return [index for index, answer in zip(free, answers, strict=True) if answer == 1]
