"""Sending the demo's messages for real, and looking at what became of them.

Speaks SMTP to the gateway as any client would, reads the Maildir behind it and the journal. Fails
with `OSError` or `smtplib.SMTPException` if the gateway is not there.
"""

from __future__ import annotations

import asyncio
import smtplib
from dataclasses import dataclass
from pathlib import Path

from gateway.core.content import END_OF_DATA, stuffed
from gateway.core.policy import Action, Decision, Verdict
from gateway.core.report import Entry
from gateway.demo.letter import SENDER, Letter
from gateway.ports import History

_TIMEOUT_S = 30.0
_MANY = 1000


@dataclass(frozen=True, slots=True)
class Delivered:
    """One file in the Maildir.

    Attributes:
        recipient: for whom.
        field: what was prepended, without its line end; ``""`` for nothing.
        is_intact: whether the rest is what was sent, octet for octet.
    """

    recipient: str
    field: str
    is_intact: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a letter.

    Attributes:
        letter: that was sent.
        code: of the reply to its content.
        reply: its text.
        decisions: by recipient, as the journal tells.
        delivered: files that came into the Maildir.
    """

    letter: Letter
    code: int
    reply: str
    decisions: tuple[tuple[str, Decision], ...]
    delivered: tuple[Delivered, ...]

    @property
    def is_as_expected(self) -> bool:
        """Say whether reply, decisions, files and their fields are what they must be."""
        expected = self.letter.expected
        return (
            self.code == expected.code
            and sorted(self.decisions) == sorted(expected.decisions)
            and tuple(sorted(item.recipient for item in self.delivered)) == expected.delivered
            and all(
                item.is_intact
                and (item.field.startswith(expected.field) if expected.field else not item.field)
                for item in self.delivered
            )
        )


class Post:
    """Sends one letter after another."""

    def __init__(self, host: str, port: int, maildir: Path, history: History) -> None:
        """Send nothing yet.

        Args:
            host: of the gateway.
            port: of its SMTP listener.
            maildir: behind it.
            history: of its tracking list.
        """
        self._host = host
        self._port = port
        self._new = maildir / "new"
        self._history = history
        self._known_files = {path.name for path in self._files()}
        self._known_entries: set[Entry] = set()

    async def prepare(self) -> None:
        """Take note of what an earlier run has left behind."""
        self._known_entries.update(await self._history.latest(_MANY))

    async def send(self, letter: Letter) -> list[Outcome]:
        """Send a letter, and the one that is to come in between."""
        if letter.meanwhile is None:
            code, reply = await asyncio.to_thread(self._sent, letter)
            return [await self._outcome(letter, code, reply)]
        content = stuffed(letter.content)
        # With the first octet of the body it is certain what the message is: it is claimed.
        certain = content.index(b"\r\n\r\n") + 5
        session = await asyncio.to_thread(self._begun, letter)
        try:
            session.send(content[:certain])
            outcomes = await self.send(letter.meanwhile)
            session.send(content[certain:])
            code, reply = await asyncio.to_thread(_ended, session)
        finally:
            session.close()
        return [*outcomes, await self._outcome(letter, code, reply)]

    def _sent(self, letter: Letter) -> tuple[int, str]:
        session = self._begun(letter)
        try:
            session.send(stuffed(letter.content))
            return _ended(session)
        finally:
            session.close()

    def _begun(self, letter: Letter) -> smtplib.SMTP:
        """Go as far as the content."""
        session = smtplib.SMTP(self._host, self._port, "client.example.org", timeout=_TIMEOUT_S)
        session.ehlo()
        commands = [f"MAIL FROM:<{SENDER}>"]
        commands += [f"RCPT TO:<{recipient}>" for recipient in letter.recipients]
        for command in (*commands, "DATA"):
            code, text = session.docmd(command)
            if code not in (250, 354):
                raise smtplib.SMTPResponseException(code, text)
        return session

    async def _outcome(self, letter: Letter, code: int, reply: str) -> Outcome:
        latest = await self._history.latest(_MANY)
        added = [entry for entry in reversed(latest) if entry not in self._known_entries]
        self._known_entries.update(added)
        decisions = tuple(
            (entry.recipient, Decision(Verdict(entry.verdict), Action(entry.action)))
            for entry in added
        )
        return Outcome(letter, code, reply, decisions, tuple(self._arrived(letter)))

    def _arrived(self, letter: Letter) -> list[Delivered]:
        """Read the files that have come since the last look."""
        arrived = []
        for path in self._files():
            if path.name not in self._known_files:
                self._known_files.add(path.name)
                arrived.append(_delivered(path.read_bytes(), letter.content))
        return arrived

    def _files(self) -> list[Path]:
        return sorted(self._new.iterdir()) if self._new.is_dir() else []


def _ended(session: smtplib.SMTP) -> tuple[int, str]:
    """Send the final dot and wait; once QUIT is answered, all of it is in the journal."""
    session.send(END_OF_DATA)
    code, text = session.getreply()
    session.quit()
    return code, text.decode("latin-1")


def _delivered(file: bytes, content: bytes) -> Delivered:
    trace, _, rest = file.partition(b"\r\nDelivered-To: ")
    recipient, _, message = rest.partition(b"\r\n")
    is_intact = trace.startswith(b"Return-Path: <") and message.endswith(content)
    field = message[: -len(content)] if is_intact else b"?"
    return Delivered(recipient.decode("latin-1"), field.decode("latin-1").strip(), is_intact)
