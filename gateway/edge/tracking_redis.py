"""Tracking list in Redis (7.0 or later; one server, Sentinel or Cluster).

What a claim, a confirmation and a release mean in Redis, and nothing of connections (`redis_link`),
round trips (`redis_batch`) or octets (`redis_layout`, `redis_journal`). Every key has an end of its
own; windows and leases are kept by the server.

Fails with `TrackingListError`, outcome unknown. Then a claim may stand without anybody knowing: it
is remembered and released along with later commands, by its token, which never touches a record.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice

from hiredis import ReplyError

from gateway.core.policy import IN_FLIGHT, NEW, Sighting
from gateway.core.report import Entry, as_text
from gateway.core.unique_id import UniqueId
from gateway.edge import redis_journal as journal
from gateway.edge import redis_layout as layout
from gateway.edge.redis_link import RedisLink, open_link
from gateway.edge.redis_wire import Command
from gateway.errors import TrackingListError
from gateway.ports import Record

BEAT_TTL_S = 30.0
_BEATS_PER_TTL = 3
_MAX_ORPHANS = 10_000
_ORPHANS_AT_ONCE = 100
_SCAN_KEYS = 1000


def connect(
    url: str, timeout_s: float, *, entries: int = 100_000, now: Callable[[], float] = time.time
) -> RedisTrackingList:
    """Return the tracking list at a URL; nothing is opened before its first use.

    Args:
        url: see `redis_url`.
        timeout_s: how long a call waits for Redis at most.
        entries: how many the journal keeps.
        now: Unix time in seconds.

    Raises:
        ConfigError: the URL cannot be understood.
    """
    return RedisTrackingList(open_link(url, timeout_s), entries=entries, now=now)


class RedisTrackingList:
    """`TrackingList` and `History` shared by all that use the same Redis."""

    def __init__(
        self,
        link: RedisLink,
        *,
        entries: int = 100_000,
        beat_ttl_s: float = BEAT_TTL_S,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Become one worker of the list; one instance per process and event loop.

        Args:
            link: to Redis; nobody else may use it.
            entries: how many the journal keeps.
            beat_ttl_s: for how long claims outlive this worker.
            now: Unix time in seconds.
            monotonic: seconds since anything, never set back.
        """
        self._link = link
        self._now = now
        self._monotonic = monotonic
        self._journal = journal.RedisJournal(entries, monotonic)
        self._worker = secrets.token_bytes(layout.WORKER_OCTETS)
        self._beat_ttl_s = beat_ttl_s
        self._is_beating_until = -math.inf
        self._heart: asyncio.Task[None] | None = None
        # Claims of transactions under way: one that cannot be renewed is not an orphan.
        self._held: dict[bytes, bytes] = {}
        self._orphans: dict[tuple[bytes, bytes], None] = {}
        self._mending: asyncio.Task[None] | None = None
        self._is_closed = False
        link.greeting = self._greeting

    async def claim(
        self, unique_ids: Sequence[UniqueId], token: bytes, lease_s: float
    ) -> Sequence[Sighting]:
        """See `TrackingList.claim`."""
        if self._heart is None and not self._is_closed:
            self._heart = asyncio.get_running_loop().create_task(self._beat_for_ever())
        keys = [layout.key_of(unique_id) for unique_id in unique_ids]
        if self._orphans:
            self._adopt(keys, token)
        try:
            sightings = await self._claim(keys, token, math.ceil(lease_s * 1000))
        except (TrackingListError, asyncio.CancelledError):
            self._orphan([key for key in keys if self._held.get(key) != token], token)
            raise
        for key, sighting in zip(keys, sightings, strict=True):
            if sighting is NEW:
                self._held[key] = token
        return sightings

    async def confirm(self, records: Sequence[Record], entries: Sequence[Entry] = ()) -> None:
        """See `TrackingList.confirm`."""
        now = self._now()
        commands: list[Command] = []
        for record in records:
            left_s = min(record.first_seen_s + record.window_s - now, record.window_s)
            left_ms = max(1, math.ceil(left_s * 1000))
            key = layout.key_of(record.unique_id)
            self._held.pop(key, None)
            commands.append(layout.set_record(key, layout.record_value(record), left_ms))
        if entries:
            commands.extend(self._journal.written(entries))
        self._checked(await self._link.run(commands))

    async def release(
        self, unique_ids: Sequence[UniqueId], token: bytes, entries: Sequence[Entry] = ()
    ) -> None:
        """See `TrackingList.release`. One that fails is made up for along with later commands."""
        keys = [layout.key_of(unique_id) for unique_id in unique_ids]
        commands = self._journal.written(entries)
        if keys:
            commands.insert(0, layout.delete_claims(keys, token))
        for key in keys:
            if self._held.get(key) == token:
                del self._held[key]
        if self._orphans:
            self._adopt(keys, token)
        try:
            await self._run(commands)
        except (TrackingListError, asyncio.CancelledError):
            self._orphan(keys, token)
            raise

    async def close(self) -> None:
        """See `TrackingList.close`."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._mending is not None:
            await asyncio.wait({self._mending})
        if self._heart is not None:
            self._heart.cancel()
            # Others need not wait for the heartbeat to run out.
            with suppress(TrackingListError):
                await self._link.run([(b"DEL", layout.worker_key(self._worker))])
        await self._link.close()

    async def trail(self, identity: bytes, limit: int) -> Sequence[Entry]:
        """See `History.trail`."""
        message_id = as_text(identity)
        found: list[Entry] = []
        before = b""
        while True:
            (reply,) = await self._run([journal.page(message_id, before)])
            found.extend(e for _, e in journal.read(reply) if e.message_id == message_id)
            before = journal.end_of(reply)
            if not before or len(found) >= limit:
                return found[limit - 1 :: -1] if len(found) >= limit else found[::-1]

    async def latest(self, limit: int) -> Sequence[Entry]:
        """See `History.latest`; reaches back as far as the last thousand."""
        (reply,) = await self._run([journal.latest(limit)])
        return [entry for _, entry in journal.read(reply)]

    async def known(self, message: bytes) -> Sequence[tuple[UniqueId, Sighting]]:
        """See `History.known`."""
        keys = await self._scan(layout.pattern_of(message))
        if not keys:
            return []
        values = await self._run([(b"GET", key) for key in keys])
        found: list[tuple[UniqueId, Sighting]] = []
        for key, value in zip(keys, values, strict=True):
            unique_id = layout.unique_id_of(key)
            sighting = layout.sighting_of(value) if isinstance(value, bytes) else None
            if unique_id is not None and sighting is not None:
                found.append((unique_id, sighting))
        return found

    async def forget(self, message: bytes, recipient: bytes | None) -> int:
        """See `History.forget`."""
        keys = await self._scan(layout.pattern_of(message, recipient))
        if not keys:
            return 0
        counts = await self._run([(b"DEL", key) for key in keys])
        return sum(count for count in counts if isinstance(count, int))

    async def _claim(self, keys: Sequence[bytes], token: bytes, lease_ms: int) -> list[Sighting]:
        mine = layout.claim_value(self._worker, token)
        commands = [layout.set_claim(key, mine, lease_ms) for key in keys]
        now = self._monotonic()
        if now >= self._is_beating_until:
            # In front of the claims: nobody may ever see one whose worker seems dead.
            commands.insert(0, self._beat())
            values = (await self._run(commands))[1:]
            self._is_beating_until = now + self._beat_ttl_s
        else:
            values = self._checked(await self._link.run(commands))
        sightings: list[Sighting] = []
        taken: dict[int, bytes] = {}
        for index, value in enumerate(values):
            if not isinstance(value, bytes):
                sightings.append(NEW)
                continue
            found = layout.sighting_of(value)
            if found is None or found is IN_FLIGHT:
                taken[index] = value
            sightings.append(found or IN_FLIGHT)
        if taken:
            for index in await self._retaken(keys, taken, mine, lease_ms):
                sightings[index] = NEW
        return sightings

    async def _retaken(
        self, keys: Sequence[bytes], taken: dict[int, bytes], mine: bytes, lease_ms: int
    ) -> list[int]:
        """Take what is ours already, a dead worker's, or nothing that can be read."""
        workers = {layout.worker_of(value) for value in taken.values()}
        gone = await self._gone([w for w in workers if w not in (None, self._worker)])
        free = [i for i, value in taken.items() if value == mine or layout.worker_of(value) in gone]
        if not free:
            return []
        answers = await self._run(
            [layout.swap_claim(keys[i], taken[i], mine, lease_ms) for i in free]
        )
        # Whatever came between is in flight as far as we know; the caller will ask again.
        return [index for index, answer in zip(free, answers, strict=True) if answer == 1]

    async def _gone(self, workers: Sequence[bytes | None]) -> set[bytes | None]:
        """Return the workers that live no more; None, who made what cannot be read, never does."""
        if not workers:
            return {None}
        beats = await self._run([(b"GET", layout.worker_key(worker or b"")) for worker in workers])
        return {None, *(w for w, beat in zip(workers, beats, strict=True) if beat is None)}

    async def _run(self, commands: Sequence[Command]) -> list[object]:
        """Send commands; a refusal of any is a failure of all."""
        return self._checked(await self._link.run(commands)) if commands else []

    def _checked(self, replies: list[object]) -> list[object]:
        """Return replies if none is a refusal; whoever hears some can ask for more."""
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise TrackingListError(f"redis: {reply}") from reply
        if self._orphans and self._mending is None and not self._is_closed:
            self._mending = asyncio.get_running_loop().create_task(self._mend())
        return replies

    async def _scan(self, pattern: bytes) -> list[bytes]:
        """Return the keys that match; walks through all there are."""
        found: dict[bytes, None] = {}
        cursor = b"0"
        while True:
            (reply,) = await self._run([(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _SCAN_KEYS)])
            match reply:
                case [bytes(cursor), [*keys]]:
                    found.update((key, None) for key in keys if isinstance(key, bytes))
                case _:
                    raise TrackingListError("redis: SCAN answers in a way that is not known")
            if cursor == b"0":
                return list(found)

    def _greeting(self) -> Sequence[Command]:
        """Beat before anything else: the server may be another one, or have lost all it had."""
        self._journal.lost()
        return () if self._heart is None else (self._beat(),)

    def _beat(self) -> Command:
        return layout.set_beat(self._worker, math.ceil(self._beat_ttl_s * 1000))

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._beat_ttl_s / _BEATS_PER_TTL)
            begun = self._monotonic()
            try:
                await self._run([self._beat()])
            except TrackingListError:
                continue  # the next claim will beat first
            self._is_beating_until = begun + self._beat_ttl_s

    def _orphan(self, keys: Sequence[bytes], token: bytes) -> None:
        """Remember claims that may stand without anybody knowing."""
        for key in keys:
            if len(self._orphans) < _MAX_ORPHANS:
                self._orphans[key, token] = None

    def _adopt(self, keys: Sequence[bytes], token: bytes) -> None:
        """Forget orphans whose transaction asks for them again."""
        for key in keys:
            self._orphans.pop((key, token), None)

    async def _mend(self) -> None:
        """Release orphans, while the list answers."""
        try:
            while self._orphans:
                some = list(islice(self._orphans, _ORPHANS_AT_ONCE))
                await self._run([layout.delete_claims([key], token) for key, token in some])
                for orphan in some:
                    self._orphans.pop(orphan, None)
        except TrackingListError:
            pass  # they stay, for the next time it answers
        finally:
            self._mending = None
