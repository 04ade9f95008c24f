"""Messages for tests: whole octets with CRLF, made of a few fields."""

from __future__ import annotations

import itertools

DATE = "Tue, 24 Nov 2026 12:00:00 +0000"
_SERIAL = itertools.count(1)


def fresh_id() -> str:
    """Return a Message-ID, without brackets, that nobody else has."""
    return f"test-{next(_SERIAL)}.{id(_SERIAL):x}@sender.test"


def letter(
    message_id: str | None,
    body: bytes = b"Hello\r\n",
    *,
    date: str | None = DATE,
    subject: str = "a test",
    extra: bytes = b"",
) -> bytes:
    """Return a message.

    Args:
        message_id: without brackets; None for none.
        body: octets.
        date: None for no Date field.
        subject: of it.
        extra: more whole fields, on top.
    """
    fields = [b"From: A <a@sender.test>\r\n", b"Subject: %b\r\n" % subject.encode()]
    if date is not None:
        fields.append(b"Date: %b\r\n" % date.encode())
    if message_id is not None:
        fields.append(b"Message-ID: <%b>\r\n" % message_id.encode("latin-1"))
    return extra + b"".join(fields) + b"\r\n" + body
