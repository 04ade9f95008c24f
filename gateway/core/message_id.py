r"""Message-ID fields made canonical (RFC 5322 sections 3.6.4 and 4.5.4; RFC 7352 section 3.1).

The canonical id is what two copies of one message have in common, octets in and octets out. It
collapses only what relays are known to change: folding, blanks, comments, needless quotes, missing
brackets, the case of the right-hand side. When in doubt two ids stay apart: a missed duplicate is a
nuisance, a false one is lost mail. Never truncated, decoded or replaced; never raises. The field on
the wire is not touched by any of this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum

from gateway.core.header import unfolded
from gateway.core.value import value

_ATEXT = rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\x80-\xff]"
_DOT_ATOM = _ATEXT + rb"+(?:\." + _ATEXT + rb"+)*"
# RFC 5322 section 3.6.4: "<" id-left "@" id-right ">"; RFC 6532 section 3 adds octets above 127.
_VALID = re.compile(
    rb"<(?:"
    + _DOT_ATOM
    + rb"|\"(?:[!#-\[\]-~\x80-\xff]|\\[!-~\x80-\xff])*\")@(?:"
    + _DOT_ATOM
    + rb"|\[[!-Z^-~\x80-\xff]*\])>"
)
# Nearly every Message-ID there is: nothing in it but what counts.
_PLAIN = re.compile(
    rb"[ \t\r\n]*+<(" + _DOT_ATOM + rb")@(" + _DOT_ATOM + rb")>[ \t\r\n]*+",
)
_QUOTED_DOT_ATOM = re.compile(rb'"(' + _DOT_ATOM + rb')"')
_TEXT, _QUOTED, _COMMENT = "text", "quoted", "comment"
_SPECIAL = re.compile(rb'["(\\]')
# A backslash quotes the next octet that is no blank, wherever it stands (RFC 5322 section 3.2.1).
_TEXT_PIECE = rb"""(?P<text>(?:[^"()\\]++|\\[ \t\r\n]*+[^ \t\r\n])++|.)"""
_UNQUOTED_PIECE = re.compile(_TEXT_PIECE, re.DOTALL | re.VERBOSE)
_PIECE = re.compile(
    rb"""(?P<quoted>"(?:[^"\\]++|\\.)*+") |""" + _TEXT_PIECE, re.DOTALL | re.VERBOSE
)
_PARENTHESIS = re.compile(rb"\\[ \t\r\n]*[^ \t\r\n]|[()]")
_BLANKS = b" \t\r\n"
_BOUNDARY = b" \t\r\n<>@"
# Seen in practice: "<1@b>", "systemmessage", ids cut by a sender ("abc..."). Seven octets is the
# shortest id in our vectors that ever told two messages apart ("foo@bar").
_SHORTEST_STRONG_OCTETS = 7
# Attack: each of them costs microseconds, and a header section has room for a quarter of a million.
_MOST_SPECIALS = 1000
_MOST_FIELDS = 5


class Form(StrEnum):
    """What can be said of the Message-ID fields of a message (a metric label)."""

    VALID = "valid"
    MALFORMED = "malformed"
    WEAK = "weak"
    MULTIPLE = "multiple"
    MISSING = "missing"


@value
class MessageId:
    """The identity a message claims for itself.

    Attributes:
        form: how trustworthy it looks.
        canonical: octets that two copies share, or None if the form is `MISSING`.
    """

    form: Form
    canonical: bytes | None


def message_id_of(bodies: Sequence[bytes]) -> MessageId:
    """Make the Message-ID of a message canonical.

    Args:
        bodies: raw bodies of all Message-ID fields, in order. The first that is not empty counts
            (RFC 7352 section 3.1), because relays append and prepend others. Beyond five that hold
            anything, more than relays could have added, they are not read.
    """
    if len(bodies) == 1 and (plain := _PLAIN.fullmatch(bodies[0])):
        canonical = b"%b@%b" % (plain[1], plain[2].lower())
        return MessageId(Form.WEAK if is_weak(canonical) else Form.VALID, canonical)
    telling = [body for body in bodies if body.strip(_BLANKS + b"<>")]
    ids = [canonical_of(body) for body in telling[:_MOST_FIELDS]]
    first = next((value for value in ids if value is not None), None)
    if first is None:
        return MessageId(Form.MISSING, None)
    differ = len(set(ids)) > 1 or len(telling) < len(bodies) or len(telling) > _MOST_FIELDS
    if differ or any(map(_names_several, telling)):
        return MessageId(Form.MULTIPLE, first)
    if is_weak(first):
        return MessageId(Form.WEAK, first)
    are_valid = all(_VALID.fullmatch(unfolded(body)) for body in bodies)
    return MessageId(Form.VALID if are_valid else Form.MALFORMED, first)


def canonical_of(body: bytes) -> bytes | None:
    """Return the canonical id in one field body, or None if it holds none (``<>``, ``<@x>``).

    Where more parentheses, quotes and backslashes stand than anybody means, they are text.
    """
    token = _token(unfolded(body))
    # Of the token alone: else its canonical id would be another one when it comes without the rest.
    is_intricate = _is_intricate(token)
    cleaned = token.translate(None, _BLANKS) if is_intricate else _cleaned(token)
    left, at, right = cleaned.lstrip(b"<").rstrip(b">").rpartition(b"@")
    if not at:
        return right or None
    if not left:
        return None
    if not is_intricate and (quoted := _QUOTED_DOT_ATOM.fullmatch(left)):
        left = quoted[1]
    return left + at + right.lower()


def canonical_of_pasted(text: bytes) -> bytes | None:
    """Return the canonical id that somebody names, as a field has it, in brackets or without.

    Where ``<`` stands in the middle of a word, that is a canonical id: they can hold it.
    """
    value = unfolded(text)
    before, bracket, _ = value.partition(b"<")
    if before and bracket and not before.endswith((b" ", b"\t")) and b">" not in value:
        value = b"<%b>" % value
    return canonical_of(value)


def is_valid(canonical: bytes) -> bool:
    """Say whether an id in brackets is a msg-id by the grammar."""
    return _VALID.fullmatch(b"<%b>" % canonical) is not None


def is_weak(canonical: bytes) -> bool:
    """Say whether an id is too poor to identify a message by itself."""
    left, _, right = canonical.rpartition(b"@")
    return (
        not left
        or not right
        or len(canonical) < _SHORTEST_STRONG_OCTETS
        or left.count(left[:1]) == len(left)
        or canonical.endswith(b"...")
    )


def _token(value: bytes) -> bytes:
    """Return what stands in the first ``<…>``, behind a ``<`` that is not closed, or all of it."""
    if span := _span(value):
        return value[span[0] + 1 : span[1]]
    opening = _opening(value, (_TEXT,))
    return value if opening is None else value[opening + 1 :]


def _span(value: bytes) -> tuple[int, int] | None:
    """Return where the first ``<`` outside comments stands, and the ``>`` behind it."""
    opening = _opening(value, (_TEXT, _QUOTED))
    closing = -1 if opening is None else value.find(b">", opening + 1)
    return None if opening is None or closing < 0 else (opening, closing)


def _opening(value: bytes, kinds: Sequence[str]) -> int | None:
    """Return where the first ``<`` stands that is part of something of these kinds."""
    if b"<" not in value:
        return None
    if not _SPECIAL.search(value) or _is_intricate(value):
        return value.find(b"<")
    found = (value.find(b"<", begin, end) for kind, begin, end in _segments(value) if kind in kinds)
    return next((position for position in found if position >= 0), None)


def _is_intricate(value: bytes) -> bool:
    return sum(map(value.count, (b"(", b")", b'"', b"\\"))) > _MOST_SPECIALS


def _names_several(body: bytes) -> bool:
    """Say whether one field holds a second, different ``<…>``."""
    value = unfolded(body)
    if not (first := _span(value)):
        return False
    rest = value[first[1] + 1 :]
    if not (second := _span(rest)):
        return False
    return canonical_of(rest[second[0] :]) not in (None, canonical_of(value))


def _cleaned(token: bytes) -> bytes:
    """Remove blanks outside quotes, and comments where the grammar allows one."""
    if not _SPECIAL.search(token):
        return token.translate(None, _BLANKS)
    kept = {_TEXT: _BLANKS, _QUOTED: b""}
    return b"".join(
        token[begin:end].translate(None, kept[kind])
        for kind, begin, end in _segments(token)
        if kind in kept
    )


def _segments(value: bytes) -> Iterator[tuple[str, int, int]]:
    """Cut a value into text, quoted strings and comments; linear in its length.

    A parenthesis that touches text on both sides belongs to the id: ``rz(1)_ae2`` (seen in
    practice). Adjacent comments are judged as one, so that a second pass finds nothing new.
    """
    ends = _comment_ends(value) if b"(" in value else {}
    position = 0
    piece = _PIECE
    while match := piece.match(value, position):
        kind, end = match.lastgroup or _TEXT, match.end()
        if match[0] == b'"':
            # It never closes; nor may others then. Attack: each would be searched to the end.
            piece = _UNQUOTED_PIECE
        if position in ends:
            end = ends[position]
            while end in ends:
                end = ends[end]
            outside = value[position - 1 : position] + value[end : end + 1]
            is_at_border = position == 0 or end == len(value)
            kind = _COMMENT if is_at_border or any(o in _BOUNDARY for o in outside) else _TEXT
        yield kind, position, end
        position = end


def _comment_ends(value: bytes) -> dict[int, int]:
    """Return for each balanced opening parenthesis the offset behind its closing one."""
    ends: dict[int, int] = {}
    open_at: list[int] = []
    for match in _PARENTHESIS.finditer(value):
        if match[0] == b"(":
            open_at.append(match.start())
        elif match[0] == b")" and open_at:
            ends[open_at.pop()] = match.end()
    return ends
