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
_LOW_WATER_OCTETS = 16 * 1024


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
        "_more",
        "_more_octets",
        "_transport",
        "_waited_since",
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
        self._waited_since = 0.0
        self._loop = loop
        self._flush = flush
        self._buffer = b""
        self._at = 0
        # What came while there was something left to take. Joined to it each time, 25 MB would be
        # copied a hundred times over: half of what such a message cost.
        self._more: list[bytes] = []
        self._more_octets = 0
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
        if self._buffer:
            self._more.append(data)
            self._more_octets += len(data)
        else:
            self._buffer = data
        if self._waiter is not None:
            self._wake(None)
        # Even if somebody waits: the event loop reads on for megabytes before it is their turn.
        if len(self._buffer) - self._at + self._more_octets > _HIGH_WATER_OCTETS:
            self._hold()

    def end(self) -> None:
        """Note that the client will send no more."""
        self._is_ended = True
        self._wake(ClientGoneError("disconnected"))

    def close(self) -> None:
        """Let go of the timer."""
        self.end()
        self._watchdog.close()

    @property
    def has_more(self) -> bool:
        """Say whether octets have come that nobody has taken."""
        return bool(self._buffer)

    def take_line(self) -> bytes | None:
        """Take a line that has come, with its line end; None if none is whole."""
        line = self.peek_line()
        if line is not None:
            self._take(len(line))
        return line

    def take_block(self) -> bytes:
        """Take all that has come; ``b""`` if nothing has."""
        if self._at or self._more:
            self._gather()
        taken = self._buffer
        self._take(len(taken))
        return taken

    def peek_line(self) -> bytes | None:
        """Look at a line that has come, with its line end, and leave it; None if none is whole."""
        end = self._buffer.find(b"\n", self._at) + 1
        if end == 0 and self._more:
            self._gather()
            end = self._buffer.find(b"\n") + 1
        return self._buffer[self._at : end] if end else None

    async def line(self, limit_octets: int, timeout_s: float) -> bytes:
        """Wait for a whole line.

        Returns:
            The line with its line end. One that is longer than the limit comes without it, cut
            off; what follows has to be skipped with `skip_line`.

        Raises:
            ClientGoneError: no whole line will come any more.
            ClientSilentError: the line did not come in time; one that comes bit by bit could keep a
                session for days.
        """
        begun_s: float | None = None
        while (line := self.take_line()) is None:
            if len(self._buffer) - self._at > limit_octets:
                return self.take_block()
            left_s = timeout_s if begun_s is None else begun_s + timeout_s - time.monotonic()
            await self.arrival(left_s)
            begun_s = begun_s or self._waited_since
        return line

    async def skip_line(self, limit_octets: int, timeout_s: float) -> bool:
        """Drop octets up to a line end; False if there is none within the limit.

        Raises:
            ClientGoneError: no line end will come any more.
            ClientSilentError: it did not come in time.
        """
        give_up_s = time.monotonic() + timeout_s
        skipped = 0
        while skipped <= limit_octets:
            if self.take_line() is not None:
                return True
            skipped += len(self.take_block())
            await self.arrival(give_up_s - time.monotonic())
        return False

    async def block(self, timeout_s: float) -> bytes:
        """Wait for any octets and take all there are.

        Raises:
            ClientGoneError: none will come any more.
            ClientSilentError: none came in time.
        """
        if not self._buffer:
            await self.arrival(timeout_s)
        return self.take_block()

    async def exactly(self, octets: int, timeout_s: float) -> bytes:
        """Wait for a number of octets.

        Raises:
            ClientGoneError: fewer will come.
            ClientSilentError: nothing came in time.
        """
        while len(self._buffer) - self._at + self._more_octets < octets:
            await self.arrival(timeout_s)
        self._gather()
        taken = self._buffer[:octets]
        self._take(octets)
        return taken

    def arrival(self, timeout_s: float) -> asyncio.Future[None]:
        """Return a future that is done when more octets have come; to be awaited at once.

        A future and not a coroutine, because a session waits here four times a message.

        Args:
            timeout_s: how long they may take.

        Returns:
            No result; or `ClientGoneError`, `ClientSilentError`.
        """
        waiter: asyncio.Future[None] = self._loop.create_future()
        if self._is_ended:
            waiter.set_exception(ClientGoneError("disconnected"))
        elif self._is_silent:
            waiter.set_exception(ClientSilentError("nothing came in time"))
        else:
            self._flush()
            if self._is_paused:
                self._go_on()
            self._waited_since = time.monotonic()
            self._waiter = waiter
            self._watchdog.arm(timeout_s)
        return waiter

    def put_back(self, octets: bytes) -> None:
        """Give back octets that were taken in excess; they are the next to be taken."""
        if octets:
            self._gather()
            self._buffer = octets + self._buffer

    def _gather(self) -> None:
        """Join all that has come in one buffer."""
        self._buffer = b"".join((self._buffer[self._at :], *self._more))
        self._at = self._more_octets = 0
        self._more.clear()

    def _take(self, octets: int) -> None:
        """Move on behind what is taken."""
        self._at += octets
        if self._at == len(self._buffer):
            self._buffer, self._at = b"", 0
            if self._more:
                self._gather()
        # Not before little is left: a client that sends faster than it is served would be read on
        # with each line taken, and all that it sends would wait here.
        left = len(self._buffer) - self._at + self._more_octets
        if self._is_paused and left < _LOW_WATER_OCTETS:
            self._go_on()

    def _hold(self) -> None:
        """Let the transport read no more."""
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Let the transport read again."""
        if self._is_paused and self._transport is not None and not self._is_ended:
            self._is_paused = False
            self._transport.resume_reading()

    def _wake(self, error: ClientGoneError | ClientSilentError | None) -> None:
        """Tell whoever waits."""
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():  # done: whoever waited was cancelled
            return
        self._watchdog.disarm()
        self.waited_s += time.monotonic() - self._waited_since
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    def _fall_silent(self) -> None:
        self._is_silent = True
        self._wake(ClientSilentError("nothing came in time"))
