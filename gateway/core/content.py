r"""The octets between DATA and the final dot (RFC 5321 sections 2.3.8, 4.1.1.4 and 4.5.2).

Only CRLF "." CRLF ends content. A bare CR, a bare LF or a NUL makes content unfit to be passed on:
servers disagree on what they mean, and that disagreement is SMTP smuggling. Content is handed on in
wire form, dots still stuffed, so that nothing has to be stuffed again.
"""

from __future__ import annotations

END_OF_DATA = b".\r\n"
_TERMINATOR = b"\r\n.\r\n"
# Each proper prefix of the terminator, longest first: octets that may still become the end.
_PREFIXES = tuple(_TERMINATOR[:n] for n in range(len(_TERMINATOR) - 1, 0, -1))


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
        end = data.find(_TERMINATOR)
        if end >= 0:
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
    """Return which forbidden octet is in data, which never starts or ends within a CRLF."""
    line_ends = data.count(b"\r\n")
    if data.count(b"\n") != line_ends:
        return "bare_lf"
    if data.count(b"\r") != line_ends:
        return "bare_cr"
    return "nul" if b"\0" in data else ""


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
        if b"\n." not in chunk and chunk[:1] != b".":
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
