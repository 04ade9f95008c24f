"""Where `scan` finds messages: mbox files, Maildirs, single message files, folders of any of these.

Yields them chunk by chunk, so that neither a large file nor a large message is ever in memory. Who
is given a folder reads what looks like mail in it and counts the rest as skipped; a file that is
named is read whatever it looks like. Fails with `OSError` only for what is named and not there;
what cannot be read within a folder is told to a callback.

No definition of mbox is followed by all (RFC 4155 appendix A). Here a message begins at a line
``From `` at the start of the file or behind an empty line, if the line also holds a time of day, or
is all there is to say (``From - ``, ``From `` alone, seen in practice).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK_OCTETS = 1 << 20
_LONG_LINE_OCTETS = 1 << 16
_SEPARATOR = re.compile(rb"From (?:[^\n]*\d:\d\d[^\n]*|-?[ \t]*)\r?\n")
_LONGEST_SEPARATOR = 1000
_MAILDIR_PARTS = ("cur", "new")
_MAIL_SUFFIXES = (".eml", ".mbox", ".mbx")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some octets of a message.

    Attributes:
        octets: it begins a line or ends one, unless that is very long.
        place: where the message is, in its first chunk; ``""`` in those that follow.
    """

    octets: bytes
    place: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be read.

    Attributes:
        path: of it.
        octets: its size.
    """

    path: Path
    octets: int


OnSkip = Callable[[Path, str], None]
"""Told what is not read, and why; ``""`` if it does not look like mail."""


def sources(path: Path, on_skip: OnSkip) -> Iterator[Source]:
    """Find the files to read.

    Args:
        path: of a file or a folder.
        on_skip: told what is passed over.

    Raises:
        OSError: there is nothing there.
    """
    if path.is_dir():
        yield from _in_folder(path, on_skip)
    else:
        yield Source(path, path.stat().st_size)


def chunks(source: Source) -> Iterator[Chunk]:
    """Read the messages of a file.

    Raises:
        OSError: it cannot be read, or not to its end.
    """
    with source.path.open("rb", buffering=0) as file:
        block = file.read(_BLOCK_OCTETS)
        name = os.fspath(source.path)
        if _SEPARATOR.match(block):
            yield from _split(name, block, lambda: file.read(_BLOCK_OCTETS))
            return
        # An empty file is the mailbox of somebody who has no mail.
        buffer, place = block, name
        while buffer:
            block = file.read(_BLOCK_OCTETS)
            end = _certain(buffer) if block else len(buffer)
            yield Chunk(buffer[:end], place)
            buffer, place = buffer[end:] + block, ""


def _in_folder(folder: Path, on_skip: OnSkip) -> Iterator[Source]:
    """Walk a folder in the order of the file system; links to folders are not followed."""
    is_maildir = _is_maildir(folder)
    # The tmp of one that was copied or unpacked is often missing: nothing was in it.
    is_part = folder.name in _MAILDIR_PARTS and (
        (folder.parent / "tmp").is_dir() or _is_maildir(folder.parent)
    )
    try:
        # Not as a list: a Maildir can hold millions.
        with os.scandir(folder) as found:
            for entry in found:
                if not (is_maildir and entry.name == "tmp"):
                    yield from _entry(entry, on_skip, is_mail=is_part)
    except OSError as error:
        on_skip(folder, error.strerror or str(error))


def _entry(entry: os.DirEntry[str], on_skip: OnSkip, *, is_mail: bool) -> Iterator[Source]:
    """Take one entry of a folder.

    Args:
        entry: of it.
        on_skip: see `sources`.
        is_mail: whether every file there is a message.
    """
    path = Path(entry.path)
    try:
        if entry.is_dir(follow_symlinks=False):
            yield from _in_folder(path, on_skip)
        elif entry.is_file() and (is_mail or _is_mail(path)):
            yield Source(path, entry.stat().st_size)
        else:
            on_skip(path, "")
    except OSError as error:
        on_skip(path, error.strerror or str(error))


def mailbox_of(path: Path) -> Path:
    """Return what holds the mail that a path given by the user leads to.

    A file with a single message belongs to the folder it lies in: a shell makes many paths of
    ``*.eml``.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_file():
        return path
    with path.open("rb") as file:
        is_mbox = _SEPARATOR.match(file.read(_LONGEST_SEPARATOR)) is not None
    return path if is_mbox else path.parent


def _is_maildir(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in _MAILDIR_PARTS)


def _is_mail(path: Path) -> bool:
    """Say whether a file looks like mail: by its name, as MH numbers it, or as an mbox begins.

    Raises:
        OSError: it cannot be read.
    """
    if path.suffix.lower() in _MAIL_SUFFIXES or path.name.isdigit():
        return True
    with path.open("rb") as file:
        return _SEPARATOR.match(file.read(_LONGEST_SEPARATOR)) is not None


def _split(name: str, buffer: bytes, read: Callable[[], bytes]) -> Iterator[Chunk]:
    """Cut an mbox into its messages.

    Args:
        name: of the file.
        buffer: its first block, which begins with a separator.
        read: returns the next block, ``b""`` at the end.
    """
    number = 0
    above = b""  # the last octets before the buffer
    while buffer:
        block = read()
        # Up to here it is certain whether a message begins; the rest waits for the next block.
        end = _certain(buffer) if block else len(buffer)
        position = 0
        for start, after in _separators(buffer, end, above, is_start=not number):
            if start > position:
                yield Chunk(buffer[position:start])
            number += 1
            yield Chunk(b"", f"{name}#{number}")
            position = after
        if end > position:
            yield Chunk(buffer[position:end])
        cut = max(end, position)
        above = (above + buffer[max(0, cut - 2) : cut])[-2:]
        buffer = buffer[cut:] + block


def _certain(buffer: bytes) -> int:
    """Return up to where a block can be judged: before the line end it closes with, or may."""
    end = buffer.rfind(b"\n")
    if len(buffer) - end > _LONG_LINE_OCTETS:
        return len(buffer)  # such a line is no separator, and its end need not be waited for
    return max(end, 0)


def _separators(
    buffer: bytes, end: int, above: bytes, *, is_start: bool
) -> Iterator[tuple[int, int]]:
    """Yield where each separator starts and ends.

    Args:
        buffer: to search.
        end: offset before which it starts.
        above: up to two octets that stand before the buffer.
        is_start: whether the file begins here, with a separator.
    """
    if is_start and (match := _SEPARATOR.match(buffer)):
        yield 0, match.end()
    position = buffer.find(b"\nFrom ")
    while 0 <= position < end:
        before = (above + buffer[max(0, position - 2) : position])[-2:]
        is_behind_empty_line = before.endswith((b"\n", b"\n\r"))
        if is_behind_empty_line and (match := _SEPARATOR.match(buffer, position + 1)):
            yield position + 1, match.end()
        position = buffer.find(b"\nFrom ", position + 1)
