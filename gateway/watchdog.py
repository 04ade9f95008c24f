"""One timer for the many short waits of a connection.

Arming is an assignment: the loop's timer is only moved when it rings. A timer per command would
cost more than the command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watchdog:
    """Calls back once if an armed wait lasts too long."""

    __slots__ = ("_deadline", "_loop", "_on_expiry", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expiry: Callable[[], None]) -> None:
        """Stay quiet until armed.

        Args:
            loop: whose clock counts.
            on_expiry: called from the loop; the watchdog is disarmed by then.
        """
        self._loop = loop
        self._on_expiry = on_expiry
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, timeout_s: float) -> None:
        """Expect `disarm` or another `arm` within so many seconds."""
        deadline = self._loop.time() + timeout_s
        self._deadline = deadline
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._ring)
        elif self._timer.when() > deadline:
            self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._ring)

    def disarm(self) -> None:
        """Expect nothing; the timer is left to ring for nobody."""
        self._deadline = None

    def close(self) -> None:
        """Let go of the loop's timer."""
        self._deadline = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._ring)
            return
        self._deadline = None
        self._on_expiry()
