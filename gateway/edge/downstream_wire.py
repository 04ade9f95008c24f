"""Octets to replies: the asyncio protocol under a downstream session (RFC 5321 section 4.2).

Knows nothing of commands: it writes what it is given and collects as many replies as are due.
A reply that is not due means that the two sides no longer agree on where they are (or that content
was taken for commands): the connection is dead from then on. Fails with `LostError` only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import cast

from gateway.core.reply import Reply, take_reply
from gateway.errors import LostError
from gateway.watchdog import Watchdog

_REPLY_LIMIT_OCTETS = 32 * 1024
_COALESCE_OCTETS = 32 * 1024
_FAREWELL_TIMEOUT_S = 2.0


class DownstreamWire(asyncio.Protocol):
    """One connection to a server.

    Attributes:
        waited_s: seconds spent waiting for it so far.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Expect a greeting as soon as the connection is made."""
        self.waited_s = 0.0
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._replies: list[Reply] = []
        self._due = 1
        self._failure = ""
        self._is_leaving = False
        self._waiter: asyncio.Future[None] | None = None
        self._is_paused = False
        self._unsent: list[bytes] = []
        self._unsent_octets = 0
        self._watchdog = Watchdog(loop, lambda: self._fail("no answer in time"))

    @property
    def transport(self) -> asyncio.Transport:
        """The connection below, to begin TLS on it.

        Raises:
            LostError: there is none.
        """
        if self._transport is None:
            raise LostError(self._failure or "not connected")
        return self._transport

    def switch_transport(self, transport: asyncio.Transport) -> None:
        """Go on over another transport (TLS).

        Raises:
            LostError: octets came in between, which would be taken for protected ones
                (the command injection of CVE-2011-0411).
        """
        if self._received or self._replies:
            self._fail("octets before the TLS handshake")
            raise LostError(self._failure)
        self._transport = transport

    def send(self, commands: Sequence[bytes]) -> None:
        """Write commands at once; as many replies are due.

        Raises:
            LostError: the connection is dead.
        """
        self._raise_failure()
        self._due += len(commands)
        self.transport.write(commands[0] if len(commands) == 1 else b"".join(commands))

    def send_raw(self, octets: bytes) -> None:
        """Write octets that no reply follows: a PROXY header.

        Raises:
            LostError: the connection is dead.
        """
        self._raise_failure()
        self.transport.write(octets)

    async def replies(self, count: int, timeout_s: float) -> Sequence[Reply]:
        """Wait for the next replies.

        Args:
            count: how many.
            timeout_s: for each of them.

        Raises:
            LostError: the connection ended, was silent, or said something senseless. A farewell
                (an unexpected 421) is such an end.
        """
        while len(self._replies) < count:
            self._raise_failure()
            await self._wait(timeout_s)
        answers, self._replies = self._replies[:count], self._replies[count:]
        return answers

    async def write(self, content: bytes, timeout_s: float) -> None:
        """Send content; small pieces are gathered into one write.

        Raises:
            LostError: the connection is dead, or the server took nothing for so long.
        """
        self._raise_failure()
        self._unsent.append(content)
        self._unsent_octets += len(content)
        if self._unsent_octets >= _COALESCE_OCTETS:
            self.flush()
            while self._is_paused:
                await self._wait(timeout_s)
                self._raise_failure()

    def expect(self, count: int) -> None:
        """Announce replies to what is written by `write`."""
        self._due += count

    def flush(self) -> None:
        """Hand gathered content to the transport."""
        if self._unsent:
            self.transport.write(b"".join(self._unsent))
            self._unsent.clear()
            self._unsent_octets = 0

    def leave(self, farewell: bytes) -> None:
        """Send a last command and close once it is answered; nobody waits for that."""
        if self._failure or self._transport is None:
            return
        self._is_leaving = True
        self._due += 1
        self._transport.write(farewell)
        self._watchdog.arm(_FAREWELL_TIMEOUT_S)

    def abort(self) -> None:
        """Cut the connection; content that lacks its dot is void."""
        self._fail("closed by us")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio)."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Collect replies (asyncio)."""
        self._received += data
        try:
            while (answer := take_reply(self._received, _REPLY_LIMIT_OCTETS)) is not None:
                if self._due == 0:
                    self._fail(f"unexpected: {answer.text}")
                    return
                self._due -= 1
                self._replies.append(answer)
        except ValueError as error:
            self._fail(str(error))
            return
        if self._is_leaving and self._due == 0:
            self._fail("closed by us")
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end (asyncio)."""
        self._fail("connection closed" if exc is None else f"connection lost: {exc}")

    def pause_writing(self) -> None:
        """Note that the server is slow (asyncio)."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Note that the server has caught up (asyncio)."""
        self._is_paused = False
        self._wake()

    async def _wait(self, timeout_s: float) -> None:
        """Sleep until something has happened; the caller looks what."""
        started = time.monotonic()
        self._waiter = self._loop.create_future()
        self._watchdog.arm(timeout_s)
        try:
            await self._waiter
        finally:
            self._watchdog.disarm()
            self._waiter = None
            self.waited_s += time.monotonic() - started

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, reason: str) -> None:
        """Be dead from now on; replies that came before are still good."""
        if not self._failure:
            self._failure = reason
        self._watchdog.close()
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _raise_failure(self) -> None:
        if self._failure:
            raise LostError(self._failure)
