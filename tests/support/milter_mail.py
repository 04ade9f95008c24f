"""Mail for a milter behind a real mail server: in all shapes, and as the hop sees it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from gateway.candidate import Screened
from gateway.core.envelope import Envelope
from gateway.core.policy import examine
from gateway.core.reply import reply
from gateway.core.rule import Policy
from gateway.core.unique_id import Sealer
from gateway.edge.tracking_sqlite import SqliteTrackingList
from gateway.inflow import Body, read_head
from gateway.screening import Screening, ScreeningSettings
from tests.support.client import stuffed
from tests.support.milter_server import SECRET

_NUMBERS = count(1)


def fresh_number() -> int:
    """Return a number that nobody else has."""
    return next(_NUMBERS)


def fresh_message(extra: bytes = b"", body: bytes = b"At noon?\r\n") -> bytes:
    """Return a message that nobody has seen."""
    return (
        b"From: Alice <alice@example.com>\r\nDate: Tue, 24 Nov 2026 09:00:00 +0100\r\n"
        b"Subject: lunch\r\nMessage-ID: <%d@example.com>\r\n%b\r\n%b"
        % (fresh_number(), extra, body)
    )


def tags_of(message: bytes) -> list[bytes]:
    """Return the lines that hold a field of ours."""
    return [line for line in message.split(b"\r\n") if line.startswith(b"X-Mailonce:")]


class _Wire:
    """Content as the SMTP face reads it."""

    waited_s = 0.0

    def __init__(self, message: bytes) -> None:
        self._left = stuffed(message).removesuffix(b".\r\n")
        self.octets = 0

    async def read(self) -> bytes:
        taken, self._left = self._left[:700], self._left[700:]
        self.octets += len(taken)
        return taken

    async def discard(self) -> None:
        self._left = b""


@dataclass(frozen=True, slots=True)
class Hop:
    """What the SMTP face does with a message, on the milters' list."""

    screening: Screening

    async def claim(self, message: bytes, *recipients: bytes) -> tuple[Screened, bytes]:
        content = _Wire(message)
        head = await read_head(content, 262_144)
        examination = examine(head.section, is_whole=head.is_complete)
        body = Body(content, head, examination)
        while await body.read():
            pass
        fingerprint = body.fingerprint()
        envelope = Envelope(b"alice@example.com", recipients, "")
        screened = await self.screening.claim(examination, envelope, fingerprint)
        return await self.screening.resolve(screened, fingerprint), fingerprint

    async def pass_on(self, message: bytes, *recipients: bytes) -> None:
        screened, fingerprint = await self.claim(message, *recipients)
        accepted = [reply(250, "2.0.0", "Ok: queued as HOP1")] * len(recipients)
        decisions = self.screening.decide(screened)
        await self.screening.settle(screened, decisions, accepted, fingerprint)


@contextlib.asynccontextmanager
async def hop_on(store: Path) -> AsyncIterator[Hop]:
    """Have a hop on the SQLite list of a milter."""
    tracking_list = SqliteTrackingList(store, 20.0)
    # A milter tells the list what it saw a moment after it has answered.
    settings = ScreeningSettings(default=Policy(), in_flight_wait_s=20.0)
    yield Hop(Screening(tracking_list, Sealer(SECRET), settings))
    await tracking_list.close()


_LONG = b"x" * 5000
SHAPES = [
    pytest.param(b"", b"At noon?\r\n", id="plain"),
    pytest.param(b"", b"", id="no body"),
    pytest.param(b"", b"no line end", id="no line end"),
    pytest.param(b"", b"\r\n\r\n\r\n", id="empty lines only"),
    pytest.param(b"", b".\r\n..\r\n.x\r\n", id="dots"),
    pytest.param(b"", b"a \t\r\n  b\r\n\tc  \r\n", id="blanks in the body"),
    pytest.param(b"", b"\xff\xfe\xe4\r\n", id="8-bit body"),
    pytest.param(b"", _LONG + b"\r\n" + _LONG, id="lines longer than 998 octets"),
    pytest.param(b"", b"line\r\n" * 30_000, id="body of several chunks"),
    pytest.param(b"Subject: a\r\n b\r\n\tc\r\n", b"x\r\n", id="two subjects, one folded"),
    pytest.param(b"Subject:\r\n\tx\r\n", b"x\r\n", id="folded at once"),
    pytest.param(b"Subject: \r\n", b"x\r\n", id="empty subject"),
    pytest.param(b"Subject:nothing before\r\n", b"x\r\n", id="no blank"),
    pytest.param(b"Subject:\t \ttabs\t\r\n", b"x\r\n", id="tabs"),
    pytest.param(b"SUBJECT  : blank before the colon\r\n", b"x\r\n", id="blank before the colon"),
    pytest.param(b"From: B\xfcrger <b@example.com>\r\n", b"x\r\n", id="8-bit field"),
    pytest.param(b"From: a, b,\r\n c <c@example.com>\r\n", b"x\r\n", id="two authors"),
    pytest.param(b"X-Long: " + _LONG + b"\r\n", b"x\r\n", id="long field"),
    pytest.param(b"no field at all\r\n", b"x\r\n", id="the body begins without an empty line"),
    pytest.param(
        b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n',
        b"--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\n",
        id="parts",
    ),
    pytest.param(
        b"Content-Type: message/rfc822\r\n",
        b"Subject: inner\r\n\tfolded\r\n\r\nbody\r\n",
        id="a message in a message",
    ),
    pytest.param(b"List-Id: <a.example.com>\r\n", b"x\r\n", id="list copy"),
    pytest.param(
        b"Resent-From: r@example.com\r\nResent-Message-ID: <r@example.com>\r\n",
        b"x\r\n",
        id="resent",
    ),
]
