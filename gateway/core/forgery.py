"""Forged X-Mailonce fields, removed from what lies beyond the examined part of a header section.

A header section longer than ``limits.header_size`` is filtered line by line as it streams by;
nothing is held but the beginning of a line that may yet become a field name. Behind the end of the
header section (an empty line, or the first line that is no field, as in `header`) everything
passes. Total: any octets will do.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from gateway.core.policy import OUR_FIELD, Examination

_NAME = re.compile(rb"([!-9;-~\x80-\xff]++)[ \t]*+:")
_MAYBE_NAME = re.compile(rb"(?:[!-9;-~\x80-\xff]++[ \t]*+)?")
# No name is as long; one of ours with more blanks behind it than this is taken for a forged field.
_MOST_HELD_OCTETS = 4096


class _Place(Enum):
    """Where in the section the next octet stands."""

    LINE_START = auto()
    KEPT_LINE = auto()
    FORGED_LINE = auto()
    BODY = auto()


class ForgeryFilter:
    """Takes our fields out of what follows the examined part of a header section."""

    __slots__ = ("_held", "_is_forged", "_place")

    def __init__(self, section: bytes, examination: Examination) -> None:
        """Go on where the examined part ends.

        Args:
            section: the examined part, whole lines if it has any.
            examination: of it.
        """
        last = examination.forged[-1].end if examination.forged else -1
        self._is_forged = last == len(section)
        self._held = b""
        self._place = _Place.LINE_START
        if examination.stray:
            self._place = _Place.BODY
        elif section and not section.endswith(b"\n"):
            self._place = self._line()

    def feed(self, block: bytes) -> bytes:
        """Return what passes of the next octets, and of those held back before them.

        Args:
            block: in wire form: a dot that was doubled is in front of no name of ours.
        """
        data, self._held = self._held + block, b""
        kept, position = [], 0
        while position < len(data):
            if self._place is _Place.BODY:
                kept.append(data[position:])
                break
            if self._place is _Place.LINE_START:
                self._place = self._begun(data, position)
                if self._place is _Place.LINE_START:
                    self._held = data[position:]
                    break
                continue
            end = data.find(b"\n", position) + 1
            if self._place is _Place.KEPT_LINE:
                kept.append(data[position : end or len(data)])
            position = end or len(data)
            if end:
                self._place = _Place.LINE_START
        return b"".join(kept)

    def rest(self) -> bytes:
        """Return what is held back still, when no more will come."""
        held, self._held = self._held, b""
        return held

    def _begun(self, data: bytes, position: int) -> _Place:
        """Return where a line that begins at a position leads; `LINE_START` if that is open yet."""
        if data[position] in b" \t":
            return self._line()
        if name := _NAME.match(data, position):
            self._is_forged = name[1].lower() == OUR_FIELD
            return self._line()
        maybe = _MAYBE_NAME.match(data, position)
        if maybe is None or maybe.end() < len(data):
            return _Place.BODY
        if len(data) - position <= _MOST_HELD_OCTETS:
            return _Place.LINE_START
        self._is_forged = maybe[0].rstrip(b" \t").lower() == OUR_FIELD
        return self._line()

    def _line(self) -> _Place:
        return _Place.FORGED_LINE if self._is_forged else _Place.KEPT_LINE
