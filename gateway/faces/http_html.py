"""HTML as values: text is escaped wherever it enters, so that no page can forget to.

An `Html` is markup already; any other text becomes harmless on its way into one. Elements and
attribute names are ours, never a client's.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset(("br", "input", "link", "meta"))


class Html(str):
    """Markup, safe as it stands."""

    __slots__ = ()


Content = str | int | Html | None | Iterable["Content"]
"""What an element may hold: markup, text to be escaped, nothing, or several of them."""


def tag(name: str, /, *content: Content, **attributes: str | int | float | bool | None) -> Html:
    """Return one element.

    Args:
        name: of the element.
        content: in it.
        attributes: ``class_`` is ``class``, other underscores are hyphens; None and False leave
            one out, True gives it no value.
    """
    opening = "".join(
        [
            _attribute(key, value)
            for key, value in attributes.items()
            if value is not None and value is not False
        ]
    )
    if name in _VOID:
        return Html(f"<{name}{opening}>")
    return Html(f"<{name}{opening}>{join(*content)}</{name}>")


def join(*content: Content) -> Html:
    """Return several pieces as one."""
    return Html("".join([_markup(piece) for piece in content]))


def shown(text: str) -> str:
    """Return journal text for the eye: octets above 127 read as UTF-8 where they are that.

    What does not print is written as an escape, control and bidirectional characters among it: an
    id must not be able to look like another one, or turn the rest of a line around.
    """
    try:
        readable = text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        readable = text
    if readable.isprintable():
        return readable
    return "".join(
        [
            character if character.isprintable() else f"\\u{{{ord(character):x}}}"
            for character in readable
        ]
    )


def _markup(piece: Content) -> str:
    if piece is None:
        return ""
    if isinstance(piece, Html):
        return piece
    if isinstance(piece, (str, int)):
        return escape(str(piece))
    return "".join([_markup(part) for part in piece])


def _attribute(name: str, value: str | int | float | bool | None) -> str:
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
