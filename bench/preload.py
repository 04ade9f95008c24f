"""Fills a Redis with records as mailonce writes them, fast: many commands in one write."""

from __future__ import annotations

import socket
import time

from gateway.core.unique_id import Identity, Sealer
from gateway.edge.redis_layout import key_of, record_value, set_record
from gateway.ports import Record

_BATCH = 5_000
_WINDOW_MS = 5 * 86_400_000
_QUEUE_ID = b"4dFhzM1Qv0z2xKl"  # as long as Postfix makes them
_OK = b"+OK\r\n"


def preload(port: int, count: int) -> None:
    """Write that many records, each of a message and recipient of its own."""
    sealer = Sealer(b"")
    now_s = int(time.time())
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        for first in range(0, count, _BATCH):
            numbers = range(first, min(first + _BATCH, count))
            connection.sendall(b"".join(_command(sealer, number, now_s) for number in numbers))
            _read_oks(connection, len(numbers))


def _command(sealer: Sealer, number: int, now_s: int) -> bytes:
    identity = Identity(b"id", b"<%d@preload.example.net>" % number)
    (unique_id,) = sealer.unique_ids(identity, [b"recipient@example.com"])
    fingerprint = sealer.fingerprint(unique_id, b"%016d" % number)
    record = Record(unique_id, now_s, fingerprint, 1, _WINDOW_MS / 1000, note=_QUEUE_ID)
    words = set_record(key_of(unique_id), record_value(record), _WINDOW_MS)
    encoded = [word if isinstance(word, bytes) else b"%d" % word for word in words]
    body = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
    return b"*%d\r\n%b" % (len(encoded), body)


def _read_oks(connection: socket.socket, count: int) -> None:
    left = count * len(_OK)
    while left:
        data = connection.recv(65536)
        if not data or not data.isascii() or b"-" in data:
            raise RuntimeError(f"Redis: {data[:200]!r}")
        left -= len(data)
