"""One timer for the many short waits of a connection.

Arming is an assignment: the loop's timer is only moved when it rings. A timer per command would
cost more than the command.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Watchdog:
    """Calls back once if an armed wait lasts too long."""

    __slots__ = ("_deadline", "_loop", "_on_expiry", "_rings_at", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expiry: Callable[[], None]) -> None:
        """Stay quiet until armed.

        Args:
            loop: whose clock counts.
            on_expiry: called from the loop; the watchdog is disarmed by then.
        """
        self._loop = loop
        self._on_expiry = on_expiry
        self._deadline = math.inf
        self._rings_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, timeout_s: float) -> None:
        """Expect `disarm` or another `arm` within so many seconds."""
        self._deadline = deadline = self._loop.time() + timeout_s
        if deadline < self._rings_at:
            self._ring_at(deadline)

    def disarm(self) -> None:
        """Expect nothing; the timer is left to ring for nobody."""
        self._deadline = math.inf

    def close(self) -> None:
        """Let go of the loop's timer."""
        self._deadline = self._rings_at = math.inf
        # Whoever owns us is called back by us: a circle that only the collector would find.
        self._on_expiry = _nobody
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring_at(self, time_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = time_s
        self._timer = self._loop.call_at(time_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._rings_at = math.inf
        if self._deadline == math.inf:
            return
        if self._loop.time() < self._deadline:
            self._ring_at(self._deadline)
            return
        self._deadline = math.inf
        self._on_expiry()


def _nobody() -> None:
    """Nobody waits any more."""
