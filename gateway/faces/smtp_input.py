"""What a client sends, in order: command lines and blocks of content (RFC 5321 section 2.3.8).

Octets come from the protocol by `feed`; whoever converses takes them. What is not taken is bounded:
the transport is paused until it is. Knows nothing of commands or content.

Fails with `ClientGoneError` when the client has ended its side and nothing is left to take, and
with `ClientSilentError` when it sends nothing for too long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.errors import ClientGoneError, ClientSilentError
from gateway.watchdog import Watchdog

_HIGH_WATER_OCTETS = 64 * 1024


class Input:
    """One client's octets.

    Attributes:
        waited_s: seconds spent waiting for the client so far.
    """

    __slots__ = (
        "_at",
        "_buffer",
        "_flush",
        "_is_ended",
        "_is_paused",
        "_is_silent",
        "_loop",
        "_transport",
        "_waiter",
        "_watchdog",
        "waited_s",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, flush: Callable[[], None]) -> None:
        """Expect nothing yet.

        Args:
            loop: that runs the session.
            flush: called before each wait, so that the client has got what it may wait for itself.
        """
        self.waited_s = 0.0
        self._loop = loop
        self._flush = flush
        self._buffer = b""
        self._at = 0
        self._is_ended = False
        self._is_paused = False
        self._is_silent = False
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._watchdog = Watchdog(loop, self._fall_silent)

    def attach(self, transport: asyncio.Transport) -> None:
        """Pause and resume this transport from now on."""
        self._transport = transport
        self._is_paused = False

    def feed(self, data: bytes) -> None:
        """Take octets from the protocol."""
        waiting = len(self._buffer) - self._at
        self._buffer = self._buffer[self._at :] + data if waiting else data
        self._at = 0
        self._wake()
        # Even if somebody waits: the event loop reads on for megabytes before it is their turn, and
        # each block would copy what came before it (half the CPU time of a message of 25 MB).
        if waiting + len(data) > _HIGH_WATER_OCTETS and self._transport and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def end(self) -> None:
        """Note that the client will send no more."""
        self._is_ended = True
        self._wake()

    def close(self) -> None:
        """Let go of the timer."""
        self._is_ended = True
        self._watchdog.close()
        self._wake()

    @property
    def has_more(self) -> bool:
        """Say whether octets have come that nobody has taken."""
        return self._at < len(self._buffer)

    @property
    def is_ended(self) -> bool:
        """Say whether the client will send no more."""
        return self._is_ended

    def take_line(self) -> bytes | None:
        """Take a line that has come, with its line end; None if none is whole."""
        end = self._buffer.find(b"\n", self._at) + 1
        if end == 0:
            return None
        line = self._buffer[self._at : end]
        self._advance(end)
        return line

    def peek_line(self) -> bytes | None:
        """Look at a line that has come, with its line end, and leave it; None if none is whole."""
        end = self._buffer.find(b"\n", self._at) + 1
        return self._buffer[self._at : end] if end else None

    async def line(self, limit_octets: int, timeout_s: float) -> bytes:
        """Wait for a whole line.

        Returns:
            The line with its line end. One that is longer than the limit comes without it, cut
            off; what follows has to be skipped with `skip_line`.

        Raises:
            ClientGoneError: no whole line will come any more.
            ClientSilentError: nothing came in time.
        """
        while (line := self.take_line()) is None:
            if len(self._buffer) - self._at > limit_octets:
                line = self._buffer[self._at :]
                self._advance(len(self._buffer))
                return line
            await self._wait(timeout_s)
        return line

    async def skip_line(self, limit_octets: int, timeout_s: float) -> bool:
        """Drop octets up to a line end; False if there is none within the limit.

        Raises:
            ClientGoneError: no line end will come any more.
            ClientSilentError: nothing came in time.
        """
        skipped = 0
        while skipped <= limit_octets:
            if self.take_line() is not None:
                return True
            skipped += len(self._buffer) - self._at
            self._advance(len(self._buffer))
            await self._wait(timeout_s)
        return False

    async def block(self, timeout_s: float) -> bytes:
        """Wait for any octets and take all there are.

        Raises:
            ClientGoneError: none will come any more.
            ClientSilentError: none came in time.
        """
        if not self.has_more:
            await self._wait(timeout_s)
        block = self._buffer[self._at :] if self._at else self._buffer
        self._advance(len(self._buffer))
        return block

    async def exactly(self, octets: int, timeout_s: float) -> bytes:
        """Wait for a number of octets.

        Raises:
            ClientGoneError: fewer will come.
            ClientSilentError: nothing came in time.
        """
        while len(self._buffer) - self._at < octets:
            await self._wait(timeout_s)
        taken = self._buffer[self._at : self._at + octets]
        self._advance(self._at + octets)
        return taken

    def put_back(self, octets: bytes) -> None:
        """Return what was taken too much; it comes first."""
        if octets:
            self._buffer = octets + self._buffer[self._at :]
            self._at = 0

    def _advance(self, position: int) -> None:
        if position >= len(self._buffer):
            self._buffer, self._at = b"", 0
        else:
            self._at = position
        self._go_on()

    def _go_on(self) -> None:
        """Let the transport read again."""
        if self._is_paused and self._transport and not self._is_ended:
            self._is_paused = False
            self._transport.resume_reading()

    async def _wait(self, timeout_s: float) -> None:
        """Sleep until more has come."""
        if self._is_ended:
            raise ClientGoneError("disconnected")
        if self._is_silent:
            raise ClientSilentError("nothing came in time")
        self._flush()
        self._go_on()
        started = time.monotonic()
        self._waiter = self._loop.create_future()
        self._watchdog.arm(timeout_s)
        had = len(self._buffer) - self._at
        try:
            await self._waiter
        finally:
            self._watchdog.disarm()
            self._waiter = None
            self.waited_s += time.monotonic() - started
        if len(self._buffer) - self._at > had:
            return
        if self._is_silent:
            raise ClientSilentError("nothing came in time")
        raise ClientGoneError("disconnected")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fall_silent(self) -> None:
        self._is_silent = True
        self._wake()
