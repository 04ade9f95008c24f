"""A message as it comes in: the header section first, then the body, fingerprinted on its way.

Content is read once, in wire form, and handed on in wire form; only the fingerprint sees it
unstuffed. Fails with the `ClientError` of the content's source.
"""

from __future__ import annotations

from typing import Protocol

from gateway.core.content import Unstuffer, unstuffed
from gateway.core.fingerprint import Fingerprinter
from gateway.core.forgery import ForgeryFilter
from gateway.core.header import header_length
from gateway.core.policy import Examination
from gateway.core.value import value
from gateway.errors import ContentRefusedError


class Blocks(Protocol):
    """Octets in wire form, in order."""

    async def read(self) -> bytes:
        """Return the next octets, ``b""`` at the end."""


class Content(Protocol):
    """Where content comes from: a face."""

    @property
    def octets(self) -> int:
        """Octets read so far."""

    @property
    def waited_s(self) -> float:
        """Seconds spent waiting for the client."""

    async def read(self) -> bytes:
        """Return the next octets in wire form, without the final dot; ``b""`` at the end.

        Raises:
            ClientError: the client is gone or silent, or the content must not be passed on.
        """

    async def discard(self) -> None:
        """Read to the end and forget, whatever the content is; what has no end is given up.

        Raises:
            ClientError: the client is gone or silent.
        """


@value
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
    received = await content.read()
    length = header_length(received)
    if length is None:
        return await _read_long_head(content, bytearray(received), limit_octets)
    return _head(received, length, limit_octets)


async def _read_long_head(content: Content, received: bytearray, limit_octets: int) -> Head:
    """Go on reading where the first octets did not hold the whole section."""
    searched = 0
    block = bytes(received)
    while True:
        length = header_length(received, searched)
        if length is None and not block:
            length = len(received)
        if length is not None:
            return _head(bytes(received), length, limit_octets)
        if len(received) > limit_octets:
            # What was read ends in a whole line, so that a field of ours is not cut in two.
            cut = received.rfind(b"\n") + 1 or len(received)
            return Head(unstuffed(bytes(received[:cut])), bytes(received[cut:]), is_complete=False)
        searched = len(received)
        block = await content.read()
        received += block


def _head(received: bytes, length: int, limit_octets: int) -> Head:
    return Head(unstuffed(received[:length]), received[length:], length <= limit_octets)


def check_hops(examination: Examination, most_hops: int) -> None:
    """Refuse a message that has been through too many servers (RFC 5321 section 6.3).

    Raises:
        ContentRefusedError: it has.
    """
    if examination.hops > most_hops:
        raise ContentRefusedError("hops")


class Body:
    """What follows the header section; `Blocks` to be read to their end once."""

    __slots__ = ("_content", "_filter", "_fingerprinter", "_rest", "_unstuffer")

    def __init__(self, content: Content, head: Head, examination: Examination) -> None:
        """Go on behind the head."""
        self._content = content
        self._rest = head.rest
        # Fields of ours are removed behind the examined part of a header section, too.
        self._filter = None if head.is_complete else ForgeryFilter(head.section, examination)
        self._unstuffer = Unstuffer()
        self._fingerprinter = Fingerprinter(examination.identifying)
        self._fingerprinter.update(examination.stray)

    async def read(self) -> bytes:
        """Return the next octets (`Blocks`).

        Raises:
            ClientError: as `Content.read`.
        """
        block, self._rest = self._rest, b""
        block = block or await self._content.read()
        if self._filter is not None:
            block = await self._filtered(self._filter, block)
        if block:
            self._fingerprinter.update(self._unstuffer.feed(block))
        return block

    async def _filtered(self, forgeries: ForgeryFilter, block: bytes) -> bytes:
        """Return the next octets that are no forged field of ours."""
        while block:
            if kept := forgeries.feed(block):
                return kept
            block = await self._content.read()
        return forgeries.rest()

    def fingerprint(self) -> bytes:
        """Return the fingerprint of header and body; right only after the last block."""
        return self._fingerprinter.digest()
