"""The mail server's side of the milter protocol, for tests: says what it is told, reads answers.

It composes packets by itself; only cutting answers apart is left to the codec under test, which has
tests of its own.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from gateway.faces.milter_wire import PacketReader

ALL_REQUESTS = 0x1FF
ALL_STEPS = 0x1FFFFF
V2_STEPS = 0x7F
FINAL = "acdrty"


@dataclass(frozen=True, slots=True)
class Edit:
    """What a milter wants changed.

    Attributes:
        code: of the request.
        name: of a field, or a recipient.
        body: of a field.
        index: of a field.
    """

    code: str
    name: bytes
    body: bytes = b""
    index: int = 0


def packet(command: str, payload: bytes = b"") -> bytes:
    """Compose a packet."""
    return struct.pack("!I", len(payload) + 1) + command.encode() + payload


def header_packets(
    message: bytes, *, leading_space: bool = True, no_macros: bool = True
) -> tuple[bytes, bytes]:
    """Take a message apart as Postfix does: header packets, and the body with CRLF."""
    section, _, body = message.partition(b"\r\n\r\n")
    fields: list[bytes] = []
    for line in section.split(b"\r\n"):
        if line[:1] in (b" ", b"\t") and fields:
            fields[-1] += b"\n" + line
        else:
            fields.append(line)
    packets = []
    for text in fields:
        name, _, value = text.partition(b":")
        if not leading_space:
            value = value.removeprefix(b" ")
        if not no_macros:
            packets.append(packet("D", b"N"))
        packets.append(packet("L", name.rstrip(b" \t") + b"\0" + value + b"\0"))
    return b"".join(packets), body


@dataclass(frozen=True, slots=True)
class Answer:
    """What the milter said at the end of a message.

    Attributes:
        edits: code and arguments of each, the final one aside.
        verdict: code of the final one.
        text: of a reply for the client.
    """

    edits: tuple[Edit, ...]
    verdict: str
    text: str = ""

    @property
    def inserted(self) -> list[bytes]:
        """Return the fields that were put in front, the topmost first, as ``name:body``."""
        found = [edit.name + b":" + edit.body for edit in self.edits if edit.code == "i"]
        return found[::-1]

    @property
    def removed(self) -> list[bytes]:
        """Return the recipients that were taken away."""
        return [edit.name for edit in self.edits if edit.code == "-"]


@dataclass(slots=True)
class MilterPeer:
    """One connection to a milter."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    limit_s: float = 30.0
    steps: int = 0
    requests: int = 0
    version: int = 0
    macro_lists: bytes = b""
    _packets: PacketReader = field(default_factory=PacketReader)
    _unread: list[tuple[int, bytes]] = field(default_factory=list)

    @classmethod
    async def connect(cls, address: tuple[str, int] | str) -> Self:
        """Connect to a TCP port or a unix socket."""
        if isinstance(address, str):
            return cls(*await asyncio.open_unix_connection(address))
        return cls(*await asyncio.open_connection(*address))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def send(self, octets: bytes) -> None:
        """Send octets as they are."""
        self.writer.write(octets)

    async def next(self) -> tuple[str, bytes]:
        """Return the next packet; raises EOFError at the end."""
        while not self._unread:
            data = await asyncio.wait_for(self.reader.read(65536), self.limit_s)
            if not data:
                raise EOFError
            self._unread += self._packets.feed(data)
        command, payload = self._unread.pop(0)
        return chr(command), payload

    async def is_closed(self) -> bool:
        """Say whether the milter ends the connection next."""
        try:
            await self.next()
        except (EOFError, ConnectionError):
            return True
        return False

    async def negotiate(
        self, version: int = 6, requests: int = ALL_REQUESTS, steps: int = ALL_STEPS
    ) -> Self:
        """Offer, and take note of what was agreed."""
        self.send(packet("O", struct.pack("!III", version, requests, steps)))
        command, payload = await self.next()
        assert command == "O"
        self.version, self.requests, self.steps = struct.unpack("!III", payload[:12])
        self.macro_lists = payload[12:]
        return self

    def introduce(self, address: str = "192.0.2.7", helo: str = "client.test") -> None:
        """Say who the client is."""
        family = b"6" if ":" in address else b"4"
        self.send(
            packet("C", b"[%b]\0%b\x13\x88%b\0" % (address.encode(), family, address.encode()))
        )
        self.send(packet("D", b"H") + packet("H", helo.encode() + b"\0"))

    def message(
        self,
        message: bytes,
        recipients: Sequence[bytes] = (b"<bob@example.net>",),
        sender: bytes = b"<alice@example.org>",
        queue_id: bytes = b"4ABC",
        chunk_octets: int = 65535,
    ) -> bytes:
        """Compose all packets of a message for a server that waits for nothing before the end."""
        head, body = header_packets(message, leading_space=bool(self.steps & 1 << 20))
        chunks = [body[i : i + chunk_octets] for i in range(0, len(body), chunk_octets)]
        macros = b"Ei\0%b\0" % queue_id
        return b"".join(
            (
                packet("D", b"M") + packet("M", sender + b"\0SIZE=100\0"),
                *(packet("D", b"R") + packet("R", name + b"\0") for name in recipients),
                head,
                *(packet("D", macros) + packet("B", chunk) for chunk in chunks),
                packet("D", macros) + packet("E"),
            )
        )

    async def deliver(
        self, message: bytes, recipients: Sequence[bytes] = (b"<bob@example.net>",)
    ) -> Answer:
        """Send a message, and return what became of it; then abort, as Postfix always does."""
        self.send(self.message(message, recipients))
        answer = await self.answer()
        self.send(packet("A"))
        return answer

    async def answer(self) -> Answer:
        """Return the answer to the end of a message."""
        edits: list[Edit] = []
        while True:
            command, payload = await self.next()
            if command in "im":
                (index,) = struct.unpack("!I", payload[:4])
                name, body, end = payload[4:].split(b"\0")
                assert end == b""
                edits.append(Edit(command, name, body, index))
            elif command == "-":
                assert payload[-1:] == b"\0"
                edits.append(Edit(command, payload[:-1]))
            else:
                assert command in FINAL, command
                return Answer(tuple(edits), command, payload.rstrip(b"\0").decode("latin-1"))
