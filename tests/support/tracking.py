"""Values for tests of tracking lists, and what every one of them is."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway.core.report import Entry
from gateway.core.unique_id import UniqueId
from gateway.ports import History, Record, TrackingList

LEASE_S = 60.0
FINGERPRINT = b"fingerprint!"


class Both(TrackingList, History, Protocol):
    """What every list is."""


def some_id(message: bytes | None = None, variant: bytes = b"") -> UniqueId:
    """Return an id that nobody else has."""
    return UniqueId(message or os.urandom(12), os.urandom(8), variant)


def some_token() -> bytes:
    """Return a token that nobody else has."""
    return os.urandom(8)


def record_of(
    unique_id: UniqueId,
    *,
    fingerprint: bytes = FINGERPRINT,
    first_seen_s: int | None = None,
    copies: int = 1,
    window_s: float = 3600.0,
    note: bytes = b"",
    provisional_at_s: int = 0,
    is_retry_due: bool = False,
    token: bytes = b"",
) -> Record:
    """Return a record, seen now unless said otherwise."""
    first = int(time.time()) if first_seen_s is None else first_seen_s
    return Record(
        unique_id, first, fingerprint, copies, window_s, note, provisional_at_s, is_retry_due, token
    )


async def eventually(condition: Callable[[], Awaitable[bool]], limit_s: float = 30.0) -> None:
    """Wait until a condition holds; asks again and again, since no list tells."""
    async with asyncio.timeout(limit_s):
        while not await condition():  # noqa: ASYNC110 – there is no event to wait for
            await asyncio.sleep(0.01)


def entry_of(message_id: str = "a@example.org", *, recipient: str = "b@example.org") -> Entry:
    """Return a journal entry."""
    return Entry(
        at_s=1795523637.25,
        message_id=message_id,
        form="valid",
        recipient=recipient,
        reverse_path="c@example.org",
        client="192.0.2.1",
        helo="client.example",
        verdict="duplicate",
        action="tagged",
        size_octets=1234,
        reply="250 2.0.0 Ok: queued as 4Zk",
        queue_id="4Zk",
        key="00" * 20,
        first_seen_s=1795523000,
        first_queue_id="4Za",
        copies=2,
    )
