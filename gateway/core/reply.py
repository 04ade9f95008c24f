"""SMTP replies as values (RFC 5321 section 4.2, enhanced codes RFC 3463 section 2).

A downstream's reply is kept octet for octet, because it goes to the client unchanged; our own are
built by `reply`. A value of this module is always a complete, well-formed reply.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

# RFC 5321 section 4.2: Reply-code [ "-" / SP text ] CRLF. Seen in practice: 8-bit text, and lines
# that end after the code.
_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\r\n\0]*))?\r?\n")
_SINGLE = re.compile(rb"([2-5][0-9][0-9])(?: [^\r\n\0]*)?\r\n")
_ENHANCED = re.compile(rb"([245])\.(\d{1,3})\.(\d{1,3})(?= |$)")


@dataclass(frozen=True)
class Reply:
    """One whole reply.

    Attributes:
        code: three digits.
        wire: all lines with their line ends, as they go to the client.
    """

    code: int
    wire: bytes

    @property
    def status_class(self) -> int:
        """First digit of the code: 2, 3, 4 or 5."""
        return self.code // 100

    @property
    def is_accepted(self) -> bool:
        """Say whether the command succeeded (2yz)."""
        return self.code // 100 == 2

    @cached_property
    def lines(self) -> tuple[bytes, ...]:
        """Text of each line, without code and line end."""
        return tuple(line[4:] for line in self.wire.splitlines())

    @property
    def text(self) -> str:
        """All lines in one for a log, code included; octets above 127 stand for themselves."""
        return " / ".join(line.decode("latin-1") for line in self.wire.splitlines())


@lru_cache(maxsize=256)
def reply(code: int, enhanced: str, *texts: str) -> Reply:
    """Build a reply of our own.

    Args:
        code: three digits.
        enhanced: RFC 3463 section 2, such as ``"4.3.0"``; ``""`` where none belongs (354, EHLO).
        texts: printable ASCII, one per line; at least one.

    Raises:
        ValueError: no reply code, the two codes disagree in class, or a text is missing or not
            printable ASCII.
    """
    if not 200 <= code <= 599 or not texts:
        raise ValueError("a reply has a code of three digits and a text")
    if enhanced and enhanced[0] != str(code)[0]:
        raise ValueError(f"{code} and {enhanced} are of different classes")
    if not all(text.isascii() and text.isprintable() for text in texts):
        raise ValueError("a reply text is printable ASCII")
    prefix = f"{enhanced} " if enhanced else ""
    last = len(texts) - 1
    lines = [f"{code}{' ' if i == last else '-'}{prefix}{text}\r\n" for i, text in enumerate(texts)]
    return Reply(code, "".join(lines).encode("ascii"))


@lru_cache(maxsize=1024)
def single_reply(octets: bytes) -> Reply | None:
    """Read octets that are one reply of one line; None if they are anything else.

    Remembered, because servers say few things, again and again: 0.1 instead of 3 µs for each.
    """
    match = _SINGLE.fullmatch(octets)
    return Reply(int(match[1]), octets) if match else None


def take_reply(buffer: bytearray, limit_octets: int) -> Reply | None:
    """Take the first complete reply off the front of a buffer.

    Args:
        buffer: octets received; what makes up the reply is deleted from it.
        limit_octets: longest reply that is believed.

    Returns:
        The reply, or None while it is incomplete.

    Raises:
        ValueError: not a reply (RFC 5321 section 4.2.1), codes differ between lines, or too long.
    """
    position = 0
    code = 0
    while (match := _LINE.match(buffer, position)) is not None:
        line_code = int(match[1])
        if code not in (0, line_code):
            raise ValueError(f"reply changes from {code} to {line_code}")
        code, position = line_code, match.end()
        if position > limit_octets:
            break
        if match[2] != b"-":
            wire = bytes(buffer[:position])
            del buffer[:position]
            return Reply(code, wire.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    if b"\n" in buffer[position:] or len(buffer) > limit_octets:
        raise ValueError(f"not a reply: {bytes(buffer[position : position + 80])!r}")
    return None


def enhanced_of(answer: Reply) -> str:
    """Return the enhanced status code of a reply's last line, or "" (RFC 2034 section 4).

    One of another class than the reply's own code is none.
    """
    match = _ENHANCED.match(answer.lines[-1])
    return match[0].decode("ascii") if match and int(match[1]) == answer.status_class else ""
