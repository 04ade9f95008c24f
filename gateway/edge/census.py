"""How many sessions there are, in all and per client, over all worker processes.

Each worker counts its own sessions in a part of shared memory that only it writes, and reads the
parts of the others: no lock, no message, no process that must be asked. A worker that dies is
counted out by the supervisor (`clear`).

Clients are not stored. Each stands for one slot in each of two rows, found by a keyed hash (a
count-min sketch): a client is believed to have as many sessions as the emptier of its two slots, so
that it is held to another's count only if they share both, which nobody can arrange without the
key.
Of an IPv6 address the first 64 bits count: one host has all the others to itself.

No method waits. The memory must be zero at first.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence

from gateway.core.rule import address_of
from gateway.ports import Admission

_ROW_SLOTS = 1 << 15
_ROWS = 2
_MOST = (1 << 16) - 1
_TOTAL_OCTETS = 8
_SLOT_OCTETS = 2
PART_OCTETS = _TOTAL_OCTETS + _ROWS * _ROW_SLOTS * _SLOT_OCTETS
"""Shared memory that one worker needs."""

Memory = memoryview | mmap.mmap


class Census:
    """One worker's view: it counts its own sessions, and sees all.

    Attributes:
        most: sessions over all workers (``limits.sessions``); may be set anew.
        most_per_client: of one client (``limits.sessions_per_client``); may be set anew.
    """

    def __init__(
        self, parts: Sequence[Memory], own: int, key: bytes, *, most: int, most_per_client: int
    ) -> None:
        """Count from what the memory holds.

        Args:
            parts: of all workers, each `PART_OCTETS`.
            own: which of them is ours.
            key: of the hash; the same for all workers, secret, up to 64 octets.
            most: sessions over all workers.
            most_per_client: of one client.
        """
        views = [memoryview(part).cast("B") for part in parts]
        self._totals = [view[:_TOTAL_OCTETS].cast("Q") for view in views]
        self._slots = [view[_TOTAL_OCTETS:PART_OCTETS].cast("H") for view in views]
        self._own = own
        self._key = key
        self.most = most
        self.most_per_client = most_per_client

    @property
    def sessions(self) -> int:
        """Sessions of all workers."""
        return sum([total[0] for total in self._totals])

    @property
    def is_ahead(self) -> bool:
        """Say whether another worker has clearly fewer sessions than this one.

        An eighth and two: less than that evens out by itself.
        """
        least = min([total[0] for total in self._totals])
        return 8 * self._totals[self._own][0] > 9 * least + 16

    def enter(self, address: str) -> Admission:
        """Count a session in, if there may be one more.

        Counted first and looked at then: workers that admit at the same time may both refuse the
        last free place, and never both give it.

        Args:
            address: of the client; ``""``, a unix socket, counts towards `most` only.

        Returns:
            `ADMITTED`: `leave` must be called later. Otherwise nothing was counted.
        """
        places, slots = self._places(address), self._slots[self._own]
        if any(slots[place] == _MOST for place in places):
            return Admission.TOO_MANY_OF_CLIENT
        self._add(places, 1)
        if self.sessions > self.most:
            self._add(places, -1)
            return Admission.TOO_MANY
        if places and self._most_at(places) > self.most_per_client:
            self._add(places, -1)
            return Admission.TOO_MANY_OF_CLIENT
        return Admission.ADMITTED

    def leave(self, address: str) -> None:
        """Count an admitted session out."""
        self._add(self._places(address), -1)

    def _add(self, places: tuple[int, ...], number: int) -> None:
        self._totals[self._own][0] += number
        slots = self._slots[self._own]
        for place in places:
            slots[place] += number

    def _most_at(self, places: tuple[int, ...]) -> int:
        """Return how many sessions the client of these slots has at most."""
        return min([sum([slots[place] for slots in self._slots]) for place in places], default=0)

    def _places(self, address: str) -> tuple[int, ...]:
        """Return the slots of a client, one in each row."""
        parsed = address_of(address)
        if parsed is None:
            return ()
        packed = parsed.packed if parsed.version == 4 else parsed.packed[:8]
        digest = hashlib.blake2b(packed, digest_size=4, key=self._key).digest()
        return (
            int.from_bytes(digest[:2], "big") % _ROW_SLOTS,
            int.from_bytes(digest[2:], "big") % _ROW_SLOTS + _ROW_SLOTS,
        )


def clear(part: Memory) -> None:
    """Count all sessions of a dead worker out."""
    memoryview(part).cast("B")[:PART_OCTETS] = bytes(PART_OCTETS)
