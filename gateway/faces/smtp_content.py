"""Content as a client sends it after the 354: `inflow.Content` (RFC 5321 section 4.1.1.4).

Only CRLF "." CRLF ends it. A bare CR, a bare LF, a NUL or too many octets make it unfit to be
passed on: `ContentRefusedError`, whose reply the face knows. The face then discards the rest up to
the real end, so that nobody can hide commands behind it, and a client that looks for no reply until
then hears why. What is far too long is not read to its end: the session is over with the reply.
"""

from __future__ import annotations

import time

from gateway.core.content import ContentScanner
from gateway.errors import ClientSilentError, ContentRefusedError
from gateway.faces.smtp_input import Input

# RFC 5321 section 4.5.3.2.5 asks for patience between blocks, not without end: a client that feeds
# one octet a minute would hold a downstream process for days.
TOTAL_TIMEOUT_S = 3600.0
# Most that is read in vain. It costs time, no memory; a small `limits.message_size` is no reason to
# cut off who brings a large message: without its reply the client would try again for days.
_DISCARDED_OCTETS = 64 * 1024 * 1024


class SmtpContent:
    """One message's content, read once.

    Attributes:
        octets: read so far, in wire form.
        is_ended: whether the end was read.
    """

    __slots__ = (
        "_deadline",
        "_input",
        "_limit_octets",
        "_scanner",
        "_timeout_s",
        "_waited_before_s",
        "octets",
    )

    def __init__(self, source: Input, limit_octets: int, timeout_s: float) -> None:
        """Begin behind the 354.

        Args:
            source: the client's octets.
            limit_octets: most that is taken.
            timeout_s: between two blocks.
        """
        self._input = source
        self._limit_octets = limit_octets
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + TOTAL_TIMEOUT_S
        self._waited_before_s = source.waited_s
        self._scanner = ContentScanner()
        self.octets = 0

    @property
    def is_ended(self) -> bool:
        """Say whether the end was read."""
        return self._scanner.is_complete

    @property
    def waited_s(self) -> float:
        """Seconds spent waiting for the client since the 354 (`Content`)."""
        return self._input.waited_s - self._waited_before_s

    async def read(self) -> bytes:
        """Return the next octets (`Content`)."""
        while not self._scanner.is_complete:
            if not self._input.has_more:
                await self._input.arrival(self._timeout_s)
            content = self._scanned()
            if self._scanner.violation:
                raise ContentRefusedError(self._scanner.violation)
            if self.octets > self._limit_octets:
                raise ContentRefusedError("size")
            if content:
                return content
        return b""

    async def discard(self) -> None:
        """Read to the end and forget (`Content`).

        As much again as may be sent at all, and at least 64 MiB: if that does not bring the end,
        the rest is not read, and `is_ended` stays false.

        Raises:
            ClientError: as `read`.
        """
        most = self.octets + max(self._limit_octets, _DISCARDED_OCTETS)
        while not self._scanner.is_complete and self.octets <= most:
            if not self._input.has_more:
                await self._input.arrival(self._timeout_s)
            self._scanned()

    def _scanned(self) -> bytes:
        """Take what has come; what follows the end goes back for the commands."""
        if time.monotonic() > self._deadline:
            raise ClientSilentError("content took too long")
        content = self._scanner.feed(self._input.take_block())
        self.octets += len(content)
        if self._scanner.is_complete and self._scanner.rest:
            self._input.put_back(self._scanner.rest)
        return content
