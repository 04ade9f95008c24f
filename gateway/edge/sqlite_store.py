"""What stands in the SQLite file, and what a claim, a confirmation and a release mean there.

Synchronous, for one thread (`sqlite_thread`) that calls everything inside a transaction. Several
processes share the file: a transaction is short and takes the lock for writing at its beginning.

WAL with ``synchronous=NORMAL``: a power cut can take back the last transactions, which costs
duplicates, never mail, and cannot harm the file; no transaction waits for the disk.

Records end by the wall clock, which outlives a reboot. Claims and heartbeats go by the machine's
monotonic clock, so that a step of the wall clock makes no live worker seem dead; what an earlier
boot left behind has no worker that beats.

Fails with `sqlite3.Error`.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.core.policy import IN_FLIGHT, NEW, Sight, Sighting
from gateway.core.report import Entry
from gateway.core.unique_id import UniqueId
from gateway.ports import Record

BEAT_TTL_S = 30.0
BEATS_PER_TTL = 3
_VERSION = 2
_BUSY_PAUSE_S = 0.005

_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
  message BLOB NOT NULL, recipient BLOB NOT NULL, variant BLOB NOT NULL,
  first_seen_s INTEGER NOT NULL, fingerprint BLOB NOT NULL, copies INTEGER NOT NULL,
  note BLOB NOT NULL, provisional_at_s INTEGER NOT NULL, ends_at_s REAL NOT NULL,
  is_retry_due INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (message, recipient, variant)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_ends ON record (ends_at_s);
CREATE TABLE IF NOT EXISTS claim (
  message BLOB NOT NULL, recipient BLOB NOT NULL, variant BLOB NOT NULL,
  worker BLOB NOT NULL, token BLOB NOT NULL, ends_at REAL NOT NULL,
  PRIMARY KEY (message, recipient, variant)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS worker (
  worker BLOB PRIMARY KEY, beaten_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journal (
  position INTEGER PRIMARY KEY, message_id TEXT NOT NULL, line BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS journal_message_id ON journal (message_id, position);
"""
# A file of the first layout lacks one column.
_TO_VERSION_2 = "ALTER TABLE record ADD COLUMN is_retry_due INTEGER NOT NULL DEFAULT 0"
_FIND = """
SELECT first_seen_s, fingerprint, copies, note, provisional_at_s, is_retry_due FROM record
WHERE message = ? AND recipient = ? AND variant = ? AND ends_at_s > ?"""
_HOLDER = "SELECT token FROM claim WHERE message = ? AND recipient = ? AND variant = ?"
_CLAIM = """
INSERT INTO claim VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
SET worker = excluded.worker, token = excluded.token, ends_at = excluded.ends_at
WHERE token = excluded.token OR ends_at <= ?
  OR worker NOT IN (SELECT worker FROM worker WHERE beaten_at > ? AND beaten_at <= ?)"""
_CONFIRM = "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SETTLE = "DELETE FROM claim WHERE message = ? AND recipient = ? AND variant = ?"
_RELEASE = _SETTLE + " AND token = ?"
_UNCLAIM = _SETTLE + " AND worker = ? AND ends_at = ?"
_FORGET = "DELETE FROM record WHERE message = ? AND recipient = ? AND variant = ?"
_RECORDS = """
SELECT recipient, variant, first_seen_s, fingerprint, copies, note, provisional_at_s, is_retry_due
FROM record WHERE message = ? AND ends_at_s > ?"""
_CLAIMS = """
SELECT recipient, variant FROM claim WHERE message = ? AND ends_at > ?
  AND worker IN (SELECT worker FROM worker WHERE beaten_at > ? AND beaten_at <= ?)"""
_WRITE = "INSERT INTO journal (message_id, line) VALUES (?, ?)"
_TRIM = "DELETE FROM journal WHERE position <= (SELECT max(position) FROM journal) - ?"
_PURGE = """
DELETE FROM record WHERE (message, recipient, variant) IN (
  SELECT message, recipient, variant FROM record WHERE ends_at_s <= ? ORDER BY ends_at_s LIMIT ?)"""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Outcome of a claim.

    Attributes:
        sightings: one per id.
        fresh: ids that this very call claimed; others of its token were claimed before.
        ends_at: of these claims; no other call wrote the same.
    """

    sightings: tuple[Sighting, ...]
    fresh: tuple[UniqueId, ...]
    ends_at: float


@dataclass(frozen=True, slots=True)
class Options:
    """Bounds of a list.

    Attributes:
        busy_timeout_s: how long to wait for another process' transaction.
        entries: how many the journal keeps.
        beat_ttl_s: for how long claims outlive their worker.
    """

    busy_timeout_s: float
    entries: int
    beat_ttl_s: float


class SqliteStore:
    """An open file."""

    def __init__(
        self,
        path: Path,
        options: Options,
        worker: bytes,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """Open the file; make it, and the folder it is in, if they are missing.

        Args:
            path: of the file.
            options: bounds.
            worker: in whose name claims are made.
            now: Unix time.
            monotonic: the same for all processes of the machine.

        Raises:
            OSError: the folder cannot be made.
            sqlite3.Error: the file cannot be opened, or is none of ours.
        """
        self._worker = worker
        self._entries = options.entries
        self._beat_ttl_s = options.beat_ttl_s
        self._now = now
        self._monotonic = monotonic
        self._beaten_at = -math.inf
        self._written = 0
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if not path.exists():
            # The journal names who writes to whom.
            path.touch(mode=0o600)
        self._db = sqlite3.connect(
            path, timeout=options.busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(time.monotonic() + options.busy_timeout_s)
        except BaseException:
            self._db.close()
            raise

    def begin(self) -> None:
        """Begin a transaction, with the lock for writing; and say that this worker lives."""
        self._db.execute("BEGIN IMMEDIATE")
        now = self._monotonic()
        if not 0 <= now - self._beaten_at < self._beat_ttl_s / BEATS_PER_TTL:
            self._db.execute("INSERT OR REPLACE INTO worker VALUES (?, ?)", (self._worker, now))
            self._bury(now)
            self._beaten_at = now

    def commit(self) -> None:
        """End the transaction; purge some of what has ended, more than was written."""
        if self._written:
            self._db.execute(_PURGE, (self._now(), 2 * self._written))
            self._written = 0
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        """Take the transaction back, if there is one still."""
        self._written = 0
        self._beaten_at = -math.inf
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def claim(self, unique_ids: Sequence[UniqueId], token: bytes, lease_s: float) -> Claimed:
        """See `TrackingList.claim`."""
        sightings = []
        fresh = []
        ends_at = self._monotonic() + lease_s
        for unique_id in unique_ids:
            sighting, is_fresh = self._claim(_key(unique_id), token, ends_at)
            sightings.append(sighting)
            if is_fresh:
                fresh.append(unique_id)
        return Claimed(tuple(sightings), tuple(fresh), ends_at)

    def unclaim(self, claimed: Claimed) -> None:
        """Take back what one call claimed, unless it was claimed once more since."""
        for unique_id in claimed.fresh:
            self._db.execute(_UNCLAIM, (*_key(unique_id), self._worker, claimed.ends_at))

    def confirm(self, records: Sequence[Record], entries: Sequence[Entry]) -> None:
        """See `TrackingList.confirm`."""
        now = self._now()
        for record in records:
            key = _key(record.unique_id)
            left_s = min(record.first_seen_s + record.window_s - now, record.window_s)
            self._db.execute(
                _CONFIRM,
                (
                    *key,
                    record.first_seen_s,
                    record.fingerprint,
                    record.copies,
                    record.note,
                    record.provisional_at_s,
                    now + left_s,
                    record.is_retry_due,
                ),
            )
            self._db.execute(_SETTLE, key)
        self._written += len(records)
        self._write(entries)

    def release(
        self, unique_ids: Sequence[UniqueId], token: bytes, entries: Sequence[Entry] = ()
    ) -> None:
        """See `TrackingList.release`."""
        for unique_id in unique_ids:
            self._db.execute(_RELEASE, (*_key(unique_id), token))
        self._write(entries)

    def resign(self) -> None:
        """Give up all claims of this worker; it is about to end."""
        self._db.execute("DELETE FROM claim WHERE worker = ?", (self._worker,))
        self._db.execute("DELETE FROM worker WHERE worker = ?", (self._worker,))

    def trail(self, message_id: str, limit: int) -> list[Entry]:
        """See `History.trail`."""
        rows = self._db.execute(
            "SELECT line FROM journal WHERE message_id = ? ORDER BY position DESC LIMIT ?",
            (message_id, limit),
        ).fetchall()
        return _entries(rows[::-1])

    def latest(self, limit: int) -> list[Entry]:
        """See `History.latest`."""
        return _entries(
            self._db.execute(
                "SELECT line FROM journal ORDER BY position DESC LIMIT ?", (limit,)
            ).fetchall()
        )

    def known(self, message: bytes) -> list[tuple[UniqueId, Sighting]]:
        """See `History.known`."""
        now = self._monotonic()
        records = self._db.execute(_RECORDS, (message, self._now())).fetchall()
        claims = self._db.execute(_CLAIMS, (message, now, now - self._beat_ttl_s, now)).fetchall()
        return [
            *((UniqueId(message, row[0], row[1]), _sighting(row[2:])) for row in records),
            *((UniqueId(message, row[0], row[1]), IN_FLIGHT) for row in claims),
        ]

    def forget(self, message: bytes, recipient: bytes | None) -> int:
        """See `History.forget`."""
        doomed = [
            unique_id
            for unique_id, _ in self.known(message)
            if recipient in (None, unique_id.recipient)
        ]
        for unique_id in doomed:
            self._db.execute(_FORGET, _key(unique_id))
            self._db.execute(_SETTLE, _key(unique_id))
        return len(doomed)

    def _claim(
        self, key: tuple[bytes, bytes, bytes], token: bytes, ends_at: float
    ) -> tuple[Sighting, bool]:
        row = self._db.execute(_FIND, (*key, self._now())).fetchone()
        if row is not None:
            return _sighting(row), False
        now = self._monotonic()
        holder = self._db.execute(_HOLDER, key).fetchone()
        changed = self._db.execute(
            _CLAIM,
            (*key, self._worker, token, ends_at, now, now - self._beat_ttl_s, now),
        ).rowcount
        if not changed:
            return IN_FLIGHT, False
        return NEW, holder is None or holder[0] != token

    def _write(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._db.executemany(_WRITE, [(e.message_id, e.to_json()) for e in entries])
            self._db.execute(_TRIM, (self._entries,))

    def _bury(self, now: float) -> None:
        """Clear away dead workers, and the claims of any that is not alive."""
        since = now - self._beat_ttl_s
        self._db.execute("DELETE FROM worker WHERE beaten_at <= ? OR beaten_at > ?", (since, now))
        self._db.execute(
            "DELETE FROM claim WHERE ends_at <= ? OR worker NOT IN (SELECT worker FROM worker)",
            (now,),
        )

    def _prepare(self, give_up_at: float) -> None:
        while True:
            try:
                # SQLite does not wait for a process that makes the same change right now.
                self._db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > give_up_at:
                    raise
                time.sleep(_BUSY_PAUSE_S)
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("BEGIN IMMEDIATE")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise sqlite3.NotSupportedError(f"the file has layout {version}, known is {_VERSION}")
        if version == 1:
            self._db.execute(_TO_VERSION_2)
        for statement in filter(str.strip, _SCHEMA.split(";")):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._db.execute("COMMIT")


def is_busy(error: sqlite3.Error) -> bool:
    """Say whether another process held the file for too long."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _key(unique_id: UniqueId) -> tuple[bytes, bytes, bytes]:
    return (unique_id.message, unique_id.recipient, unique_id.variant)


def _sighting(row: tuple[int, bytes, int, bytes, int, int]) -> Sighting:
    first_seen_s, fingerprint, copies, note, provisional_at_s, is_retry_due = row
    return Sighting(
        Sight.SEEN, first_seen_s, fingerprint, copies, note, provisional_at_s, bool(is_retry_due)
    )


def _entries(rows: Sequence[tuple[bytes]]) -> list[Entry]:
    found = (Entry.from_json(line) for (line,) in rows)
    return [entry for entry in found if entry is not None]
