"""A circuit breaker before a tracking list: a dead list makes a message wait only now and then.

After a failure the list is not asked for a while: calls fail at once. Then one call may try; it
alone waits, and if it gets an answer all may ask again. Every call is reported to an observer.

Nothing here knows what kind of list it is, and nothing runs in the background: no task, no timer.
Fails with what the list fails with, and with `TrackingListError` for a call that was not let
through.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from gateway.core.policy import Sighting
from gateway.core.report import Entry
from gateway.core.unique_id import MESSAGE_OCTETS, RECIPIENT_OCTETS, UniqueId
from gateway.errors import TrackingListError, TrackingListTimeoutError
from gateway.ports import Observe, Record, TrackingList

PERIOD_S = 5.0
_PROBE = UniqueId(bytes(MESSAGE_OCTETS), bytes(RECIPIENT_OCTETS))
_PROBE_LEASE_S = 1.0
_TOKEN_OCTETS = 8


class Breaker:
    """`TrackingList` that asks another one while that one answers.

    Attributes:
        is_up: whether the last answer was one; True before the first.
    """

    __slots__ = ("_complain", "_list", "_monotonic", "_observe", "_period_s", "_retry_at", "is_up")

    def __init__(
        self,
        tracking_list: TrackingList,
        observe: Observe,
        *,
        complain: Callable[[str, str], None] = lambda _event, _reason: None,
        period_s: float = PERIOD_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Stand before a list.

        Args:
            tracking_list: with time-outs of its own; closed with this one.
            observe: told ``claim``, ``confirm`` or ``release``; ``ok``, ``error``, ``timeout`` or
                ``open`` (not asked); and the seconds it took.
            complain: told ``store_unavailable`` and ``store_recovered``, each when it begins, and
                why.
            period_s: how long a list that failed is left alone.
            monotonic: seconds since anything, never set back.
        """
        self._list = tracking_list
        self._observe = observe
        self._complain = complain
        self._period_s = period_s
        self._monotonic = monotonic
        self._retry_at = 0.0
        self.is_up = True

    async def claim(
        self, unique_ids: Sequence[UniqueId], token: bytes, lease_s: float
    ) -> Sequence[Sighting]:
        """See `TrackingList.claim`."""
        begun = self._admitted("claim")
        try:
            sightings = await self._list.claim(unique_ids, token, lease_s)
        except TrackingListError as error:
            self._failed("claim", begun, error)
            raise
        self._answered("claim", begun)
        return sightings

    async def confirm(self, records: Sequence[Record], entries: Sequence[Entry] = ()) -> None:
        """See `TrackingList.confirm`."""
        begun = self._admitted("confirm")
        try:
            await self._list.confirm(records, entries)
        except TrackingListError as error:
            self._failed("confirm", begun, error)
            raise
        self._answered("confirm", begun)

    async def release(
        self, unique_ids: Sequence[UniqueId], token: bytes, entries: Sequence[Entry] = ()
    ) -> None:
        """See `TrackingList.release`."""
        begun = self._admitted("release")
        try:
            await self._list.release(unique_ids, token, entries)
        except TrackingListError as error:
            self._failed("release", begun, error)
            raise
        self._answered("release", begun)

    async def close(self) -> None:
        """See `TrackingList.close`."""
        await self._list.close()

    async def probe(self) -> None:
        """Find out whether the list answers, so that no message has to; never raises.

        Called every few seconds it keeps `is_up` true to the facts while no mail flows, and spares
        messages the trial. It claims an id that no message has, and gives it up again: a list that
        is full answers as long as nothing is to be written. It is not reported.
        """
        token = secrets.token_bytes(_TOKEN_OCTETS)
        try:
            await self._list.claim([_PROBE], token, _PROBE_LEASE_S)
            await self._list.release([_PROBE], token)
        except TrackingListError as error:
            self._trip(error)
        else:
            self._recover()

    def _admitted(self, operation: str) -> float:
        """Let a call pass, and return when it began."""
        now = self._monotonic()
        if not self.is_up:
            if now < self._retry_at:
                self._observe(operation, "open", 0.0)
                raise TrackingListError("tracking list: not asked, it failed a moment ago")
            # This call tries; whatever becomes of it, the next may not try for another period.
            self._retry_at = now + self._period_s
        return now

    def _answered(self, operation: str, begun: float) -> None:
        self._recover()
        self._observe(operation, "ok", self._monotonic() - begun)

    def _failed(self, operation: str, begun: float, error: TrackingListError) -> None:
        self._trip(error)
        result = "timeout" if isinstance(error, TrackingListTimeoutError) else "error"
        self._observe(operation, result, self._monotonic() - begun)

    def _trip(self, error: TrackingListError) -> None:
        self._retry_at = self._monotonic() + self._period_s
        if self.is_up:
            self.is_up = False
            self._complain("store_unavailable", str(error))

    def _recover(self) -> None:
        if not self.is_up:
            self.is_up = True
            self._complain("store_recovered", "the tracking list answers")
