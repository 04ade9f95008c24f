"""The mail server behind the gateway: fast, records what it accepts, and fails when it is told to.

It never keeps a message: it checks the octets as they come and keeps who got what.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections import deque
from dataclasses import dataclass
from typing import cast

from tests.chaos.ledger import Attempt, Delivery, Ledger, now
from tests.chaos.post import Kind, digest_of

VERBS = ("greeting", "EHLO", "XCLIENT", "MAIL", "RCPT", "DATA", "content", "RSET")

_HEAD = re.compile(
    rb"(?:X-Mailonce: ([a-z]+);[^\r\n]*\r\n)?(?:Message-ID: <([^\r\n]+)>\r\n)?X-Serial: (\d{8})\r\n"
)
_PORT = re.compile(rb" PORT=(\d+)")
_PATH = re.compile(rb"<([^>]*)>")
_END = b"\r\n.\r\n"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong with one reply.

    Attributes:
        kind: ``reply``: another one; ``delay``; ``lost``: reset in place of it, after the work was
            done; ``undone``: reset, nothing was done; ``silence``: it never comes; ``half`` of it.
        reply: in place of the usual one.
        delay_s: how late.
    """

    kind: str
    reply: bytes = b""
    delay_s: float = 0.0


class House:
    """The server: what all its sessions share.

    Attributes:
        attempts: client port -> what that client is trying now; kept by the clients.
        sessions: open ones.
        accepted: how many transactions it has accepted.
    """

    def __init__(self, ledger: Ledger, attempts: dict[int, deque[Attempt]]) -> None:
        self.ledger = ledger
        self.attempts = attempts
        self.sessions: set[_Session] = set()
        self._troubles: dict[str, deque[Trouble]] = {verb: deque() for verb in VERBS}
        self._server: asyncio.Server | None = None
        self._port = 0
        # Bound and not listening: while we are gone, nobody else is given our port.
        self._keeper: socket.socket | None = None
        self.accepted = 0

    async def open(self, port: int) -> None:
        """Take connections."""
        self._port = port
        loop = asyncio.get_running_loop()
        if self._keeper is None:
            self._keeper = socket.socket()
            self._keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._keeper.bind(("127.0.0.1", port))
        self._server = await loop.create_server(
            lambda: _Session(self), "127.0.0.1", port, backlog=1000, reuse_port=True
        )

    async def close(self) -> None:
        """Be gone, as after a crash: nobody is let in, and all are cut."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    async def end(self) -> None:
        """Be gone for good."""
        await self.close()
        if self._keeper is not None:
            self._keeper.close()

    async def reopen(self) -> None:
        """Be there again."""
        await self.open(self._port)

    def cut(self) -> None:
        """Cut all connections."""
        for session in tuple(self.sessions):
            session.cut()

    def plan(self, verb: str, trouble: Trouble) -> None:
        """Have something go wrong with the next reply to a command."""
        self._troubles[verb].append(trouble)

    def forgive(self) -> None:
        """Take back all troubles that have not come to pass."""
        for waiting in self._troubles.values():
            waiting.clear()

    def trouble(self, verb: str) -> Trouble | None:
        """Return what goes wrong now."""
        waiting = self._troubles[verb]
        if not waiting:
            return None
        trouble = waiting.popleft()
        label = trouble.reply[:1].decode() + "xx" if trouble.kind == "reply" else trouble.kind
        self.ledger.troubles[f"{verb} {label}"] += 1
        return trouble

    def accept(
        self, content: bytes, recipients: list[str], attempt: Attempt | None
    ) -> list[Delivery]:
        """Take a message for these recipients; look whether it is what was sent."""
        self.accepted += 1
        queue_id = f"Q{self.accepted:010d}"
        head = _HEAD.match(content)
        if head is None:
            self.ledger.altered.append(f"{queue_id} begins with {content[:200]!r}")
            return [Delivery(-1, "", queue_id, now(), "", attempt)]
        mark, added, number = (head[1] or b"").decode(), head[2], int(head[3])
        self._compare(number, queue_id, content[head.start(3) - len("X-Serial: ") :], added)
        deliveries = []
        for recipient in recipients:
            delivery = Delivery(number, recipient, queue_id, now(), mark, attempt)
            self.ledger.deliveries[number, recipient].append(delivery)
            deliveries.append(delivery)
        return deliveries

    def _compare(self, number: int, queue_id: str, rest: bytes, added: bytes | None) -> None:
        altered = self.ledger.altered
        if digest_of(rest) != self.ledger.digests.get(number):
            altered.append(f"{queue_id}: message {number} is not what was sent")
        kind = self.ledger.posts[number].kind
        if (added is not None) != (kind in (Kind.NO_ID, Kind.NO_IDENTITY)):
            altered.append(f"{queue_id}: message {number}, {kind.value}: Message-ID {added!r}")
        if kind is Kind.NO_ID and self.ledger.ids.setdefault(number, added or b"") != added:
            altered.append(f"{queue_id}: message {number} has got a second Message-ID, {added!r}")


class _Session(asyncio.Protocol):
    """One connection."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._searched = 0
        self._is_busy = False
        self._is_in_content = False
        self._has_mail = False
        self._recipients: list[str] = []
        self._attempts: deque[Attempt] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's derive from nothing
        self._house.sessions.add(self)
        self._say("greeting", b"220 downstream.test ESMTP\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._transport = None
        self._house.sessions.discard(self)

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def _advance(self) -> None:
        while not self._is_busy and self._transport is not None:
            if self._is_in_content:
                if not self._read_content():
                    return
                continue
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            self._obey(line)

    def _obey(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"MAIL":
            self._mail()
        elif verb == b"RCPT":
            self._rcpt(line)
        elif verb == b"DATA":
            if not self._recipients:
                self._write(b"554 5.5.1 No valid recipients\r\n")
            elif self._say("DATA", b"354 Go on\r\n"):
                self._is_in_content = True
                self._buffer[:0] = b"\r\n"
                self._searched = 0
        elif verb == b"EHLO":
            self._reset()
            self._say(
                "EHLO",
                b"250-downstream.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 52428800\r\n"
                b"250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n",
            )
        elif verb == b"XCLI":
            port = _PORT.search(line)
            self._attempts = self._house.attempts.get(int(port[1])) if port else None
            self._reset()
            self._say("XCLIENT", b"220 downstream.test ESMTP\r\n")
        elif verb == b"RSET":
            self._reset()
            self._say("RSET", b"250 2.0.0 Ok\r\n")
        elif verb == b"QUIT":
            self._write(b"221 2.0.0 Bye\r\n")
            if self._transport is not None:
                self._transport.close()
                self._transport = None
        else:
            self._write(b"502 5.5.2 What?\r\n")

    def _mail(self) -> None:
        if self._has_mail:
            self._write(b"503 5.5.1 Nested MAIL\r\n")
        elif self._say("MAIL", b"250 2.1.0 Ok\r\n"):
            self._has_mail = True

    def _rcpt(self, line: bytes) -> None:
        path = _PATH.search(line)
        if not self._has_mail or path is None:
            self._write(b"503 5.5.1 Need MAIL\r\n")
        elif self._say("RCPT", b"250 2.1.5 Ok\r\n"):
            self._recipients.append(path[1].decode())

    def _reset(self) -> None:
        self._has_mail, self._recipients = False, []

    def _read_content(self) -> bool:
        """Read content as far as it is there; say whether it ended."""
        end = self._buffer.find(_END, self._searched)
        if end < 0:
            self._searched = max(0, len(self._buffer) - len(_END))
            return False
        content = bytes(self._buffer[2 : end + 2])
        del self._buffer[: end + len(_END)]
        self._is_in_content = False
        self._take(content)
        return True

    def _take(self, content: bytes) -> None:
        recipients = self._recipients
        self._reset()
        trouble = self._house.trouble("content")
        if trouble is not None and trouble.kind in ("reply", "undone"):
            self._suffer(trouble, b"", [])
            return
        attempt = self._attempts[-1] if self._attempts else None
        deliveries = self._house.accept(content, recipients, attempt)
        usual = f"250 2.0.0 Ok: queued as {deliveries[0].queue_id}\r\n".encode()
        if trouble is not None:
            self._suffer(trouble, usual, deliveries)
        else:
            self._write(usual, deliveries)

    def _say(self, verb: str, usual: bytes) -> bool:
        """Answer; say whether it is the usual answer, now or later."""
        trouble = self._house.trouble(verb)
        if trouble is None:
            self._write(usual)
            return True
        self._suffer(trouble, usual, [])
        return trouble.kind == "delay"

    def _suffer(self, trouble: Trouble, usual: bytes, deliveries: list[Delivery]) -> None:
        match trouble.kind:
            case "reply":
                self._write(trouble.reply)
            case "delay":
                self._is_busy = True
                loop = asyncio.get_running_loop()
                loop.call_later(trouble.delay_s, self._late, usual, deliveries)
            case "silence":
                self._is_busy = True
            case "half":
                self._write(usual[: len(usual) // 2])
                if self._transport is not None:
                    self._transport.close()
                    self._transport = None
            case _:
                self.cut()

    def _late(self, reply: bytes, deliveries: list[Delivery]) -> None:
        self._is_busy = False
        self._write(reply, deliveries)
        self._advance()

    def _write(self, reply: bytes, deliveries: list[Delivery] | None = None) -> None:
        if self._transport is None:
            return
        self._transport.write(reply)
        for delivery in deliveries or ():
            delivery.replied_s = now()
