r"""A raw header section (RFC 5322 sections 2.1 and 2.2): find fields, unfold, prepend, remove.

Everything works on the octets that came in; nothing is ever decoded, refolded or generated again,
so that a signature stays valid. The standard library's ``email`` package must not be used here: it
raises on real fields and changes others. All functions are total: any octets are a header section,
which ends at the first line that is neither a field nor a continuation.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from gateway.core.value import value

# field = field-name *WSP ":" unstructured CRLF. RFC 5322 section 4.5.8 allows blanks before the
# colon; octets above 127 and LF without CR are seen in practice (the latter in files only).
_FIELD = re.compile(rb"([!-9;-~\x80-\xff]++)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)\n?")
# Seen in practice: mbox "From " lines sent along before the header; servers take them for fields.
_MBOX_LINES = re.compile(rb"(?:>*From [^\n]*\n)*")


@value
class Field:
    """One header field and where it stands.

    Attributes:
        body: octets after the colon, folding and line end included.
        start: offset of the field's first octet in the section; 0 where there is only the field.
        end: offset after the field's line end; likewise.
    """

    body: bytes
    start: int = 0
    end: int = 0


def header_length(content: bytes | bytearray, start: int = 0) -> int | None:
    """Return the length of the header section, without the empty line, if that has come.

    Args:
        content: beginning of a message.
        start: offset up to which an earlier call has searched.
    """
    if content[:2] == b"\r\n" or content[:1] == b"\n":
        return 0
    begin = max(0, start - 2)
    end = content.find(b"\n\r\n", begin)
    # Files alone have line ends without CR; where one comes first it is above the other.
    bare = content.find(b"\n\n", begin, end + 1 if end >= 0 else None)
    found = bare if bare >= 0 else end
    return found + 1 if found >= 0 else None


def select(
    section: bytes, names: Collection[bytes]
) -> tuple[Mapping[bytes, Sequence[Field]], bytes]:
    """Pick fields by name.

    Args:
        section: raw header section.
        names: in lower case.

    Returns:
        Fields by name, in order, every name a key; and the stray octets behind the last field,
        which a server takes for the beginning of the body.
    """
    none: Sequence[Field] = ()
    found: dict[bytes, Sequence[Field]] = dict.fromkeys(names, none)
    position = start_of_fields(section)
    while match := _FIELD.match(section, position):
        start, position = position, match.end()
        # Most fields are not wanted, and making a value of each would cost more than finding it.
        name = match[1].lower()
        values = found.get(name)
        if values is not None:
            field = Field(match[2], start, position)
            if isinstance(values, list):
                values.append(field)
            else:
                found[name] = [field]
    return found, section[position:]


def unfolded(body: bytes) -> bytes:
    """Return a field body without line ends and outer blanks (RFC 5322 section 2.2.3)."""
    return body.replace(b"\r\n", b"").replace(b"\n", b"").strip(b" \t\r\n")


def collapsed(body: bytes) -> bytes:
    """Return a field body with every run of white space as one blank.

    Relays fold anew, with a tab as often as with a blank; the words stay.
    """
    return b" ".join(body.split())


def start_of_fields(section: bytes) -> int:
    """Return the offset of the first field: behind mbox lines, if any lead."""
    match = _MBOX_LINES.match(section)
    return match.end() if match else 0


def prepended(section: bytes, *new_fields: bytes) -> bytes:
    r"""Put whole fields before the first one.

    Args:
        section: raw header section, or a whole message.
        new_fields: complete fields, each ending in CRLF.

    Returns:
        The same octets in the same order, with the new fields in front of them. A section that
        starts with a blank has no header: an empty line then keeps its first line from becoming a
        continuation of ours.
    """
    if not any(new_fields):
        return section
    at = start_of_fields(section)
    gap = b"\r\n" if section[at : at + 1] in (b" ", b"\t") else b""
    return b"".join((section[:at], *new_fields, gap, section[at:]))


def without(section: bytes, unwanted: Collection[Field]) -> bytes:
    """Cut whole fields out; every other octet stays where it is.

    Args:
        section: raw header section, or a whole message.
        unwanted: some of its fields, in order.

    Returns:
        What is left. Where a stray "From " line would now lead, and servers would take all below it
        for fields, an empty line keeps it what it was: text.
    """
    if not unwanted:
        return section
    kept, position = [], 0
    for field in unwanted:
        kept.append(section[position : field.start])
        position = field.end
    kept.append(section[position:])
    left = b"".join(kept)
    at, end = start_of_fields(section), start_of_fields(left)
    # "From : a@b" looks like such a line and is a field all the same.
    while at < end and (match := _FIELD.match(left, at)):
        at = match.end()
    return left if at >= end else left[:at] + b"\r\n" + left[at:]
