"""A message as it comes in: the header section first, then the body, fingerprinted on its way.

Content is read once, in wire form, and handed on in wire form; only the fingerprint sees it
unstuffed. Fails with the `ClientError` of the content's source.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from gateway.core.content import Unstuffer, unstuffed
from gateway.core.fingerprint import Fingerprinter
from gateway.core.header import header_length
from gateway.core.policy import Examination


class Content(Protocol):
    """Where content comes from: a face.

    Attributes:
        octets: read so far.
        waited_s: time spent waiting for the client.
    """

    octets: int
    waited_s: float

    async def read(self) -> bytes:
        """Return the next octets in wire form, without the final dot; ``b""`` at the end.

        Raises:
            ClientError: the client is gone or silent, or the content must not be passed on.
        """

    async def discard(self) -> None:
        """Read to the end and forget, whatever the content is."""


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a message.

    Attributes:
        section: header section, dots unstuffed.
        rest: what came behind it so far, from the empty line on, in wire form.
        is_complete: False if the section went over the limit; it ends somewhere then.
    """

    section: bytes
    rest: bytes
    is_complete: bool


async def read_head(content: Content, limit_octets: int) -> Head:
    """Read until the header section is complete, or longer than the limit.

    Raises:
        ClientError: as `Content.read`.
    """
    received = bytearray()
    searched = 0
    while True:
        block = await content.read()
        received += block
        length = header_length(received, searched)
        if length is None and not block:
            length = len(received)
        if length is not None:
            is_complete = length <= limit_octets
            return Head(unstuffed(bytes(received[:length])), bytes(received[length:]), is_complete)
        if len(received) > limit_octets:
            # What was read ends in a whole line, so that a field of ours is not cut in two.
            cut = received.rfind(b"\n") + 1 or len(received)
            return Head(unstuffed(bytes(received[:cut])), bytes(received[cut:]), is_complete=False)
        searched = len(received)


class Body:
    """What follows the header section; to be read to its end once."""

    def __init__(self, content: Content, head: Head, examination: Examination) -> None:
        """Go on behind the head."""
        self._content = content
        self._rest = head.rest
        self._unstuffer = Unstuffer()
        self._fingerprinter = Fingerprinter(examination.identifying)
        self._fingerprinter.update(examination.stray)

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the octets in wire form, as they come."""
        block = self._rest or await self._content.read()
        while block:
            self._fingerprinter.update(self._unstuffer.feed(block))
            yield block
            block = await self._content.read()

    def fingerprint(self) -> bytes:
        """Return the fingerprint of header and body; right only after the last block."""
        return self._fingerprinter.digest()
