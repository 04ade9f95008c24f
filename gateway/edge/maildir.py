"""A Maildir as downstream, for the demo and for a look at what would be delivered.

One file per recipient, with Return-Path and Delivered-To in front (RFC 5321 section 4.4) and the
content octet for octet behind. A file is on disk, synced and under its final name before the 250.
Fails with `LostError` if the disk does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from gateway.core.capability import Capabilities
from gateway.core.content import Unstuffer
from gateway.core.envelope import parse_path
from gateway.core.handover import Client
from gateway.core.reply import Reply, reply
from gateway.errors import LostError, UnreachableError
from gateway.ports import OpenDownstream

_CAPABILITIES = Capabilities(
    (
        ("PIPELINING", ""),
        ("SIZE", "0"),
        ("8BITMIME", ""),
        ("SMTPUTF8", ""),
        ("ENHANCEDSTATUSCODES", ""),
    )
)
_SENDER_OK = reply(250, "2.1.0", "Sender ok")
_RECIPIENT_OK = reply(250, "2.1.5", "Recipient ok")
_START = reply(354, "", "Go ahead")
_OK = reply(250, "2.0.0", "Ok")
_BAD = reply(503, "5.5.1", "Bad sequence of commands")
_COPY_OCTETS = 256 * 1024
_SERIAL = count(1)


class MaildirConnector:
    """Opens sessions that deliver into one Maildir.

    Attributes:
        capabilities: what a client may use.
    """

    def __init__(self, path: Path, on_health: Callable[[bool], None]) -> None:
        """Touch nothing yet.

        Args:
            path: of the Maildir.
            on_health: told after each attempt whether its folders could be made.
        """
        self._path = path
        self._on_health = on_health
        self.capabilities = _CAPABILITIES

    async def open(self, client: Client) -> MaildirSession:
        """Open a session; who the client is makes no difference.

        Raises:
            UnreachableError: the folders cannot be made.
        """
        del client
        await self.ask_capabilities()
        return MaildirSession(self._path)

    def trust(self, places: Sequence[int]) -> None:
        """Do nothing: there is nobody to trust."""

    def openers(self) -> Sequence[OpenDownstream]:
        """Return what opens a session."""
        return [self.open]

    async def ask_capabilities(self) -> None:
        """Make the folders.

        Raises:
            UnreachableError: they cannot be made.
        """
        try:
            for name in ("tmp", "new", "cur"):
                (self._path / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            self._on_health(False)
            raise UnreachableError(str(error)) from error
        self._on_health(True)


class MaildirSession:
    """One session; the `Downstream` port."""

    waited_s = 0.0

    def __init__(self, path: Path) -> None:
        """Deliver below a Maildir whose folders exist."""
        self._path = path
        self._reverse_path: bytes | None = None
        self._forward_paths: list[bytes] = []
        self._content: IO[bytes] | None = None
        self._unstuffer = Unstuffer()

    async def exchange(self, commands: Sequence[bytes]) -> Sequence[Reply]:
        """Answer commands as a server would (`Downstream`)."""
        try:
            return [self._answer(command) for command in commands]
        except OSError as error:
            raise LostError(str(error)) from error

    async def write(self, content: bytes) -> None:
        """Keep content in an unnamed file (`Downstream`)."""
        if self._content is None:
            raise LostError("content outside a transaction")
        try:
            self._content.write(self._unstuffer.feed(content))
        except OSError as error:
            self._reset()  # nobody closes a session that is lost
            raise LostError(str(error)) from error

    async def finish(self, recipients: int) -> Sequence[Reply]:
        """Deliver to each recipient (`Downstream`)."""
        del recipients
        content = self._content
        if content is None or self._reverse_path is None:
            raise LostError("end of content outside a transaction")
        try:
            names = await asyncio.to_thread(
                _deliver, self._path, self._reverse_path, tuple(self._forward_paths), content
            )
        except OSError as error:
            raise LostError(str(error)) from error
        finally:
            self._reset()
        return [reply(250, "2.0.0", f"Ok: delivered as {names[0]}")]

    async def close(self, *, politely: bool) -> None:
        """Forget an unfinished message (`Downstream`)."""
        del politely
        self._reset()

    def _answer(self, command: bytes) -> Reply:
        verb, _, argument = command.rstrip(b"\r\n").partition(b" ")
        path = parse_path(argument)
        match verb.upper():
            case b"MAIL" if path is not None and self._reverse_path is None:
                self._reverse_path = path.path
                return _SENDER_OK
            case b"RCPT" if path is not None and self._reverse_path is not None:
                self._forward_paths.append(path.path)
                return _RECIPIENT_OK
            case b"DATA" if self._forward_paths:
                self._content = TemporaryFile(dir=self._path / "tmp")  # noqa: SIM115 - outlives this call
                self._unstuffer = Unstuffer()
                return _START
            case b"RSET":
                self._reset()
                return _OK
            case _:
                return _BAD

    def _reset(self) -> None:
        self._reverse_path = None
        self._forward_paths = []
        if self._content is not None:
            # Closing writes what a full disk has not taken yet, and fails as the write did.
            with suppress(OSError):
                self._content.close()
            self._content = None


def _deliver(
    path: Path, reverse_path: bytes, forward_paths: Sequence[bytes], content: IO[bytes]
) -> list[str]:
    """Write one file per recipient and return their names; all or an OSError.

    The name is unique by time, process and serial number, as the Maildir format asks.
    """
    names = []
    for forward_path in forward_paths:
        name = f"{time.time_ns()}.P{os.getpid()}Q{next(_SERIAL)}.{socket.gethostname()}"
        content.seek(0)
        unfinished = path / "tmp" / name
        try:
            with unfinished.open("xb") as file:
                lines = b"Return-Path: <%b>\r\nDelivered-To: %b\r\n" % (reverse_path, forward_path)
                file.write(lines)
                while block := content.read(_COPY_OCTETS):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(path / "new" / name)
        finally:
            # What each retry left behind would keep a full disk full.
            unfinished.unlink(missing_ok=True)
        names.append(name)
    folder = os.open(path / "new", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return names
