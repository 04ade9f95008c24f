r"""The octets between DATA and the final dot (RFC 5321 sections 2.3.8, 4.1.1.4 and 4.5.2).

Only CRLF "." CRLF ends content. A bare CR, a bare LF or a NUL makes content unfit to be passed on:
servers disagree on what they mean, and that disagreement is SMTP smuggling. Content is handed on in
wire form, dots still stuffed, so that nothing has to be stuffed again.
"""

from __future__ import annotations

import re

END_OF_DATA = b".\r\n"
_TERMINATOR = b"\r\n.\r\n"
# Each proper prefix of the terminator, longest first: octets that may still become the end.
_PREFIXES = tuple(_TERMINATOR[:n] for n in range(len(_TERMINATOR) - 1, 0, -1))
# Each begins with the octet that the expression engine can hurry to: twice as fast as counting CR,
# LF and CRLF, which is what most content costs us.
_BARE_CR = re.compile(rb"\r(?!\n)")
_BARE_LF = re.compile(rb"\n(?<!\r\n)")


class ContentScanner:
    """Finds the end of content in chunks cut anywhere, and octets that must not be in it.

    Attributes:
        violation: ``"bare_cr"``, ``"bare_lf"`` or ``"nul"`` once seen, else ``""``.
        rest: what followed the end, once it was found.
        is_complete: whether the end was found.
    """

    __slots__ = ("_held", "_skip", "is_complete", "rest", "violation")

    def __init__(self) -> None:
        """Start right after the line end of the DATA command, which a first dot may follow."""
        self._held = b"\r\n"
        self._skip = 2
        self.is_complete = False
        self.rest = b""
        self.violation = ""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next octets received.

        Returns:
            The content octets that are certain by now, without the terminating dot. Of a chunk
            with a violation they are still returned; the caller looks at `violation` first.
        """
        data = self._held + chunk
        # One octet is found a hundred times faster than five, and base64 holds no dot at all; else
        # searching backwards is faster by half, and mostly there is nothing to find.
        if b"." in data and data.rfind(_TERMINATOR) >= 0:
            end = data.find(_TERMINATOR)
            self.is_complete = True
            self.rest = data[end + len(_TERMINATOR) :]
            content, self._held = data[: end + 2], b""
        else:
            keep = next((len(p) for p in _PREFIXES if data.endswith(p)), 0)
            content, self._held = data[: len(data) - keep], data[len(data) - keep :]
        if content and not self.violation:
            self.violation = _violation_in(content)
        if self._skip and content:
            content, self._skip = content[self._skip :], 0
        return content


def _violation_in(data: bytes) -> str:
    """Return which forbidden octet comes first in data, which never starts or ends in a CRLF."""
    bare_cr, bare_lf, nul = _BARE_CR.search(data), _BARE_LF.search(data), data.find(b"\0")
    if bare_cr is None and bare_lf is None and nul < 0:
        return ""
    places = {
        "bare_cr": bare_cr.start() if bare_cr else len(data),
        "bare_lf": bare_lf.start() if bare_lf else len(data),
        "nul": nul if nul >= 0 else len(data),
    }
    return min(places, key=places.__getitem__)


class Unstuffer:
    """Removes the dots that SMTP added at line starts (RFC 5321 section 4.5.2), chunk by chunk."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        """Start at the beginning of a line."""
        self._tail = b"\r\n"

    def feed(self, chunk: bytes) -> bytes:
        """Return the chunk as the sender meant it; chunks may be cut anywhere."""
        if not chunk:
            return chunk
        tail, self._tail = self._tail, (self._tail + chunk[-2:])[-2:]
        if b"." not in chunk:
            return chunk
        # Searching backwards for three octets is three times as fast as forwards for two.
        has_dot = chunk.rfind(b"\r\n.") >= 0 or chunk[:1] == b"." or chunk[:2] == b"\n."
        if not has_dot:
            return chunk
        return (tail + chunk).replace(b"\r\n.", b"\r\n")[len(tail) :]


def unstuffed(content: bytes) -> bytes:
    """Return whole content without its stuffed dots."""
    return Unstuffer().feed(content)


def stuffed(content: bytes) -> bytes:
    """Return whole content with a dot before each that leads a line (RFC 5321 section 4.5.2)."""
    if content[:1] == b".":
        content = b"." + content
    return content.replace(b"\r\n.", b"\r\n..")
