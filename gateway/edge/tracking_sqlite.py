"""Tracking list in an SQLite file, shared by the workers of one machine; it outlives restarts.

The face towards the event loop; what is done in the file is `sqlite_store`'s business, by whom and
when `sqlite_thread`'s. Not for network file systems: WAL needs shared memory.

Fails with `TrackingListError`: locked for too long, disk full, file damaged or not to be opened.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gateway.core.policy import Sighting
from gateway.core.report import Entry, as_text
from gateway.core.unique_id import UniqueId
from gateway.edge.sqlite_store import BEAT_TTL_S, BEATS_PER_TTL, Claimed, Options, SqliteStore
from gateway.edge.sqlite_thread import SqliteThread
from gateway.errors import TrackingListError
from gateway.ports import Record

_WORKER_OCTETS = 8
# Another process' lock must be told from a disk that hangs before the caller stops waiting.
_BUSY_SHARE = 0.8


def connect(
    path: Path, timeout_s: float, *, entries: int = 100_000, now: Callable[[], float] = time.time
) -> SqliteTrackingList:
    """Return the tracking list in a file; nothing is opened before its first use.

    Args:
        path: of the file. It is made if missing, readable for its owner only; so is its folder.
        timeout_s: how long a call waits at most.
        entries: how many the journal keeps.
        now: Unix time in seconds.
    """
    return SqliteTrackingList(path, timeout_s, entries=entries, now=now)


class SqliteTrackingList:
    """`TrackingList` and `History` shared by all that open the same file."""

    def __init__(
        self,
        path: Path,
        timeout_s: float,
        *,
        entries: int = 100_000,
        beat_ttl_s: float = BEAT_TTL_S,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Become one worker of the list; one instance per event loop.

        Args:
            path: of the file.
            timeout_s: how long a call waits at most.
            entries: how many the journal keeps.
            beat_ttl_s: for how long claims outlive this worker.
            now: Unix time in seconds.
            monotonic: seconds, the same for all processes of the machine and never set back.
        """
        self._worker = secrets.token_bytes(_WORKER_OCTETS)
        options = Options(timeout_s * _BUSY_SHARE, entries, beat_ttl_s)
        opener = partial(SqliteStore, path, options, self._worker, now, monotonic)
        self._thread = SqliteThread(opener, str(path), timeout_s, beat_ttl_s / BEATS_PER_TTL)

    async def claim(
        self, unique_ids: Sequence[UniqueId], token: bytes, lease_s: float
    ) -> Sequence[Sighting]:
        """See `TrackingList.claim`."""

        def claim(store: SqliteStore) -> Claimed:
            return store.claim(unique_ids, token, lease_s)

        return (await self._thread.run(claim, SqliteStore.unclaim)).sightings

    async def confirm(self, records: Sequence[Record], entries: Sequence[Entry] = ()) -> None:
        """See `TrackingList.confirm`."""
        await self._thread.run(lambda store: store.confirm(records, entries))

    async def release(
        self, unique_ids: Sequence[UniqueId], token: bytes, entries: Sequence[Entry] = ()
    ) -> None:
        """See `TrackingList.release`. One that fails is made up for with a later transaction."""
        if not unique_ids and not entries:
            return
        try:
            await self._thread.run(lambda store: store.release(unique_ids, token, entries))
        except (TrackingListError, asyncio.CancelledError):
            self._thread.owe(lambda store: store.release(unique_ids, token))
            raise

    async def close(self) -> None:
        """See `TrackingList.close`."""
        await self._thread.close(lambda store: store.resign())

    async def trail(self, identity: bytes, limit: int) -> Sequence[Entry]:
        """See `History.trail`."""
        message_id = as_text(identity)
        return await self._thread.run(lambda store: store.trail(message_id, limit))

    async def latest(self, limit: int) -> Sequence[Entry]:
        """See `History.latest`."""
        return await self._thread.run(lambda store: store.latest(limit))

    async def known(self, message: bytes) -> Sequence[tuple[UniqueId, Sighting]]:
        """See `History.known`."""
        return await self._thread.run(lambda store: store.known(message))

    async def forget(self, message: bytes, recipient: bytes | None) -> int:
        """See `History.forget`."""
        return await self._thread.run(lambda store: store.forget(message, recipient))
