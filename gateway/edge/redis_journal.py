"""The journal in Redis: what is written along with an outcome, and how it is read again.

    mo:j            stream: the newest entries of all, for the console
    mo:j:<number>   streams: all entries, shared out by a digest of their identity

The number of streams is fixed and each is bounded, so the journal is bounded as a whole, needs no
index, and the trail of one identity is found by reading one short stream. A flood of copies of one
message displaces its own share only. Octets and commands only; sending is the tracking list's part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import blake2b

from gateway.core.report import Entry
from gateway.edge.redis_wire import Command

PAGE_ENTRIES = 500
_SHARES = 64
_RECENT = b"mo:j"
_RECENT_ENTRIES = 1000
_TTL_S = 30 * 86_400
_RENEW_S = 86_400


class RedisJournal:
    """Knows the commands that write and read the journal."""

    def __init__(self, entries: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take the bounds.

        Args:
            entries: how many are kept.
            monotonic: seconds since anything, never set back.
        """
        self._share_entries = -(-entries // _SHARES)
        self._recent_entries = min(entries, _RECENT_ENTRIES)
        self._monotonic = monotonic
        self._renewed_at: dict[bytes, float] = {}

    def written(self, entries: Sequence[Entry]) -> list[Command]:
        """Return what writes entries, and keeps an end before the keys they stand in."""
        commands: list[Command] = []
        for entry in entries:
            line = entry.to_json()
            for key, bound in (
                (_share_of(entry.message_id), self._share_entries),
                (_RECENT, self._recent_entries),
            ):
                commands.append((b"XADD", key, b"MAXLEN", bound, b"*", b"e", line))
                commands.extend(self._renewal(key))
        return commands

    def lost(self) -> None:
        """Take it that the server may know nothing of what was written."""
        self._renewed_at.clear()

    def _renewal(self, key: bytes) -> Sequence[Command]:
        now = self._monotonic()
        renewed_at = self._renewed_at.get(key)
        if renewed_at is not None and now - renewed_at < _RENEW_S:
            return ()
        self._renewed_at[key] = now
        return ((b"EXPIRE", key, _TTL_S),)


def latest(entries: int) -> Command:
    """Ask for the newest entries of all, newest first."""
    return (b"XREVRANGE", _RECENT, b"+", b"-", b"COUNT", entries)


def page(message_id: str, before: bytes) -> Command:
    """Ask for entries of one identity, and others that share its stream, newest first.

    Args:
        message_id: as entries have it.
        before: position of the last one seen, or ``b""``.
    """
    end = b"(" + before if before else b"+"
    return (b"XREVRANGE", _share_of(message_id), end, b"-", b"COUNT", PAGE_ENTRIES)


def read(reply: object) -> list[tuple[bytes, Entry]]:
    """Return the positions and entries in a reply to `latest` or `page`, if they can be read."""
    found: list[tuple[bytes, Entry]] = []
    for item in reply if isinstance(reply, list) else ():
        match item:
            case [bytes(position), [b"e", bytes(line)]]:
                entry = Entry.from_json(line)
                if entry is not None:
                    found.append((position, entry))
            case _:
                continue
    return found


def end_of(reply: object) -> bytes:
    """Return the position of the last entry in a full page; ``b""`` if it was the last page."""
    if isinstance(reply, list) and len(reply) >= PAGE_ENTRIES:
        return bytes(reply[-1][0])
    return b""


def _share_of(message_id: str) -> bytes:
    digest = blake2b(message_id.encode("latin-1", "replace"), digest_size=1).digest()
    return b"mo:j:%d" % (digest[0] % _SHARES)
