"""P2: what goes downstream is what came in, octet for octet, but for whole fields on top."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import pairwise

import dkim
import pytest

from tests.integration.conftest import StartPair
from tests.support.client import Client, deliver, stuffed
from tests.support.letter import fresh_id, letter

X = "x@example.org"
_MESSAGES = 500
_SEED = 20261124


def test_generated_messages_arrive_identical(start_pair: StartPair) -> None:
    """P2: dot lines, 8-bit octets, very long lines, odd folding, writes cut anywhere."""
    gateway, sink = start_pair({})
    draw = random.Random(_SEED)
    sent = []
    with Client(gateway.port) as client:
        client.greet()
        for _ in range(_MESSAGES):
            message = _message(draw)
            wire = stuffed(message)
            assert client.command("MAIL FROM:<a@sender.test> BODY=8BITMIME").code == 250
            assert client.command(f"RCPT TO:<{X}>").code == 250
            assert client.command("DATA").code == 354
            for chunk in _cut(draw, wire):
                client.send(chunk)
            assert client.answer().code == 250
            sent.append(message)
    received = [transaction.message for transaction in sink.transactions]
    assert received == sent


@pytest.mark.parametrize("chunk_octets", [1, 2, 3, 5])
def test_line_ends_at_every_border(start_pair: StartPair, chunk_octets: int) -> None:
    """P2: CR and LF, dots and the end of content fall on either side of a segment."""
    gateway, sink = start_pair({})
    message = letter(fresh_id(), b".\r\n..\r\n\r\n.x\r\n\r\n\r\n.\r\n..\r\n")
    with Client(gateway.port) as client:
        client.greet()
        client.command("MAIL FROM:<a@sender.test>")
        client.command(f"RCPT TO:<{X}>")
        client.command("DATA")
        client.send_slowly(stuffed(message), chunk_octets)
        assert client.answer().code == 250
    assert [transaction.message for transaction in sink.transactions] == [message]


@pytest.mark.parametrize(
    ("settings", "copies", "marks"),
    [
        pytest.param({"dedup.action": "tag"}, 2, [b"", b"X-Mailonce: duplicate"], id="tagged"),
        pytest.param({"dedup.action": "observe"}, 2, [b"", b""], id="observed"),
        pytest.param({}, 2, [b""], id="dropped"),
    ],
)
def test_dkim_signature_stays_valid(
    start_pair: StartPair, settings: dict[str, object], copies: int, marks: list[bytes]
) -> None:
    """P2: after every action."""
    gateway, sink = start_pair(settings)
    signed = _signed(letter(fresh_id()), [b"from", b"subject", b"date", b"message-id"])
    for _ in range(copies):
        deliver(gateway.port, "a@sender.test", [X], signed)
    delivered = [content for _, content in sink.deliveries()]
    assert len(delivered) == len(marks)
    for content, mark in zip(delivered, marks, strict=True):
        assert content.startswith(mark or signed[:20])
        assert _is_valid(content)


def test_dkim_signature_without_an_id_stays_valid(start_pair: StartPair) -> None:
    """P2: a Message-ID is added, because the signature says nothing of one."""
    gateway, sink = start_pair({})
    signed = _signed(letter(None, subject=fresh_id()), [b"from", b"subject", b"date"])
    deliver(gateway.port, "a@sender.test", [X], signed)
    ((_, content),) = sink.deliveries()
    assert content.startswith(b"Message-ID: <")
    assert _is_valid(content)


def test_dkim_signature_over_a_missing_id_stays_valid(start_pair: StartPair) -> None:
    """P2: h= names Message-ID and there is none; adding one would break the signature."""
    gateway, sink = start_pair({})
    signed = _signed(letter(None, subject=fresh_id()), [b"from", b"date", b"message-id"])
    deliver(gateway.port, "a@sender.test", [X], signed)
    assert deliver(gateway.port, "a@sender.test", [X], signed).is_accepted
    ((_, content),) = sink.deliveries()
    assert content == signed, "nothing is added, and the retry is a duplicate all the same"


def test_forged_marks_are_removed_and_nothing_else(start_pair: StartPair) -> None:
    """P2, P6: whoever writes our field cannot hide a message from a mailbox's rules."""
    gateway, sink = start_pair({})
    forged = b"X-Mailonce: duplicate;\r\n\tcopies=9\r\n"
    message = letter(fresh_id())
    head, body = message.split(b"\r\n\r\n", 1)
    deliver(
        gateway.port, "a@sender.test", [X], forged + head + b"\r\nx-MAILONCE : y\r\n\r\n" + body
    )
    assert sink.deliveries() == [(X, message)]


def test_large_message_arrives_identical(start_pair: StartPair) -> None:
    """P2, P8: more than any buffer holds, as new and as a suspect that is held back."""
    gateway, sink = start_pair({"dedup.action": "tag"})
    body = random.Random(_SEED).randbytes(9_000_000).hex().encode()
    lines = b"".join(body[at : at + 76] + b"\r\n" for at in range(0, len(body), 76))
    message = letter(fresh_id(), lines)
    for _ in range(2):
        started = time.monotonic()
        assert deliver(gateway.port, "a@sender.test", [X], message, limit_s=50).is_accepted
        assert time.monotonic() - started < 50
    first, second = [content for _, content in sink.deliveries()]
    assert first == message
    assert second.endswith(message)


def _message(draw: random.Random) -> bytes:
    """Return a message of a shape that relays get wrong."""
    pieces: list[Callable[[], bytes]] = [
        lambda: b".",
        lambda: b"..",
        lambda: b"." * draw.randrange(1, 9),
        lambda: b"",
        lambda: b" leading and trailing \t",
        lambda: bytes(draw.choices([*range(1, 10), 11, 12, *range(14, 256)], k=draw.randrange(80))),
        lambda: b"x" * 5000,
        "Grüße, 世界".encode,
    ]
    lines = [draw.choice(pieces)() for _ in range(draw.randrange(12))]
    folded = draw.choice(
        [b"X-Odd:\r\n \r\n\tvalue\r\n", b"X-Odd : a\r\n  b\r\n", b"X-Odd:\r\n", b""]
    )
    message = letter(fresh_id(), b"".join(line + b"\r\n" for line in lines), extra=folded)
    return message if draw.random() < 0.9 else message.partition(b"\r\n\r\n")[0] + b"\r\n"


def _cut(draw: random.Random, wire: bytes) -> list[bytes]:
    borders = sorted({0, len(wire), *(draw.randrange(len(wire) + 1) for _ in range(3))})
    return [wire[a:b] for a, b in pairwise(borders)]


def _signed(message: bytes, names: list[bytes]) -> bytes:
    signature = dkim.sign(message, b"sel", b"sender.test", _KEY, include_headers=names)
    return bytes(signature) + message


def _is_valid(message: bytes) -> bool:
    def answer(name: bytes, **_: object) -> bytes:
        assert name.startswith(b"sel._domainkey.sender.test")
        return _RECORD

    return bool(dkim.verify(message, dnsfunc=answer))


# Made for these tests; it signs nothing else.
_KEY = b"""\
-----BEGIN RSA PRIVATE KEY-----
MIICXgIBAAKBgQDapX+Au7OeAIoKZqzOd4OepTnGttwFKAm7eyBdWLhAqzp8dZb6
Ja8IRZALHam7fT+kbSPUo3QTTfE6dLBZi1vMEArE3Lxi/hgynagmb64IulvwqNF4
g0vdSIMIEIpQ+Ka7XltCaS6jKNjI/OOcacuzizdyJcxGA6GEpodPkTdeLwIDAQAB
AoGBAKxrcCWzX0yM/k5/c2yJ4NhdUTd8Aftq/GnFCduy1/HfVYrKLBntV579RD8P
0EaS2Xovut63WxTSFRXU6TBj7imCu0J+uDqKqB4n6R04sIbGwcKlFC/oj740Z+ms
A6MrfyHEhaHSrZHbu4wU7u2Puabh9rM3dg+77zO88gwSM+iZAkEA/bs+1EV1gT9C
SoAXtpGNnMKhpRAOK0Pl/526Gjq5jpZl6YNRs7gchzSS2tFI3oA3i/Og+fdGNdcg
zueZe+X9mwJBANyZ8sB2XdzQBLzoGkkTNe8jPadQlyTtjiRLQuV/T+4hrzrSVMwI
szI8bCSumIXYUXk56glsg8yCCU/hVGjc9P0CQQDwBa2NyJc7yMfBCiNkhZRc8pFP
QDznGLf+cwqVvW/DPurxV1R2mngCPu2dKdWxBcGGFtX1IMG+NN/IWraKyip5AkB3
SixR1PAWysn1GRG1uFSu9wCM7HB/AJKfn68SCRFA9Sgbh8dg+cdk//V+tIc3wWz1
P9MFu49d1GeSsYeCmRFFAkEA8ZxVsrl6YczuaaGqisQ+NCBvlYfu/ylfJ1MbRda/
2KYxgaxoIa2EtrIyFC9qg7TQW/VEYZSenu1BFCENFHqYiw==
-----END RSA PRIVATE KEY-----
"""
_RECORD = (
    b"v=DKIM1; k=rsa; p="
    b"MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDapX+Au7OeAIoKZqzOd4OepTnGttwFKAm7eyBd"
    b"WLhAqzp8dZb6Ja8IRZALHam7fT+kbSPUo3QTTfE6dLBZi1vMEArE3Lxi/hgynagmb64IulvwqNF4"
    b"g0vdSIMIEIpQ+Ka7XltCaS6jKNjI/OOcacuzizdyJcxGA6GEpodPkTdeLwIDAQAB"
)
