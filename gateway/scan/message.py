"""What `scan` reads out of a message, with the same functions that mail passing through meets.

A message in a file has no envelope. Whose copy it is says its topmost Delivered-To field, which
delivery agents write; without one, all messages of a path are taken for one recipient's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.core.fingerprint import Fingerprinter
from gateway.core.header import collapsed, header_length
from gateway.core.policy import Examination, examine
from gateway.scan.source import Chunk

MAX_SECTION_OCTETS = 256 << 10
"""A longer header section passes the gateway unchecked (the default of ``limits.header_size``)."""

_IN_BRACKETS = re.compile(rb"<([^<>\s]+)@([^<>\s@]+)>")
_BARE = re.compile(rb"([^\s<>()\",;:]+)@([^\s<>()\",;:@]+)")
# Public archives write addresses so.
_DISGUISED = re.compile(rb"([^\s<>()\"]+) at ([^\s<>()\"]+\.[^\s<>()\"]+)")
# Some who write an mbox quote these lines, some quote what looks quoted, too, and one copy may lie
# in a Maildir. So signs before "From " are not looked at, in whatever file.
_QUOTED_FROM = re.compile(rb"^>+From ", re.MULTILINE)
_DELIVERED_TO = b"\ndelivered-to:"
_MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a file.

    Attributes:
        place: file, and the number in it.
        examination: of the header section.
        fingerprint: of the whole.
        sender: address in From, ``""`` if there is none.
        recipient: in Delivered-To, ``b""`` if there is none.
        octets: as it lies there.
    """

    place: str
    examination: Examination
    fingerprint: bytes
    sender: str
    recipient: bytes
    octets: int

    @property
    def domain(self) -> str:
        """Domain of the sender, ``""`` if there is none."""
        return self.sender.rpartition("@")[2]


def messages(parts: Iterable[Chunk]) -> Iterator[Message]:
    """Put the chunks of one file together to what is known of its messages."""
    reading: _Reading | None = None
    for chunk in parts:
        if chunk.place:
            if reading is not None:
                yield reading.finished()
            reading = _Reading(chunk.place)
        if reading is not None:
            reading.feed(chunk)
    if reading is not None:
        yield reading.finished()


class _Reading:
    """A message of which some has been read."""

    __slots__ = ("_examination", "_fingerprinter", "_head", "_octets", "_place", "_recipient")

    def __init__(self, place: str) -> None:
        self._place = place
        self._head = b""
        self._octets = 0
        self._examination: Examination | None = None
        self._fingerprinter = Fingerprinter(())
        self._recipient = b""

    def feed(self, chunk: Chunk) -> None:
        """Take the next octets."""
        octets = chunk.octets
        self._octets += len(octets)
        if self._examination is None:
            searched = len(self._head)
            self._head += octets
            length = header_length(self._head, searched)
            if length is None and len(self._head) <= MAX_SECTION_OCTETS:
                return
            self._examination, octets = self._begun(length)
        if b">From " in octets:
            octets = _QUOTED_FROM.sub(b"From ", octets)
        self._fingerprinter.update(octets)

    def finished(self) -> Message:
        """Return the message once all of it has been read."""
        examination = self._examination
        if examination is None:
            examination, _ = self._begun(len(self._head))
        return Message(
            self._place,
            examination,
            self._fingerprinter.digest(),
            _sender(examination),
            self._recipient,
            self._octets,
        )

    def _begun(self, length: int | None) -> tuple[Examination, bytes]:
        """Examine the header section; return that and what follows it."""
        is_whole = length is not None and length <= MAX_SECTION_OCTETS
        if not is_whole:
            length = self._head.rfind(b"\n", 0, MAX_SECTION_OCTETS) + 1 or MAX_SECTION_OCTETS
        section, rest = self._head[:length], self._head[length:]
        examination = examine(section, is_whole=is_whole)
        self._fingerprinter = Fingerprinter(examination.identifying)
        self._fingerprinter.update(examination.stray)
        self._recipient = _delivered_to(section)
        self._head = b""
        return examination, rest


def _sender(examination: Examination) -> str:
    """Return the address in From, its domain in lower case, printable."""
    bodies = examination.identifying[0]
    body = bodies[0] if bodies else b""
    found = (pattern.search(body) for pattern in (_IN_BRACKETS, _BARE, _DISGUISED))
    match = next(filter(None, found), None)
    if match is None:
        return ""
    local_part, domain = (part[:_MAX_NAME].decode("latin-1") for part in match.groups())
    return f"{local_part}@{domain.lower()}"


def _delivered_to(section: bytes) -> bytes:
    # Lower case costs less than a pattern that ignores case.
    lower = b"\n" + section.lower()
    start = lower.find(_DELIVERED_TO)
    if start < 0:
        return b""
    begin = start + len(_DELIVERED_TO) - 1  # the line feed in front is not in the section
    return collapsed(section[begin:].partition(b"\n")[0])
