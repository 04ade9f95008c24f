"""One message as a milter collects it, without a connection."""

from __future__ import annotations

import pytest

from gateway.core.handover import Client
from gateway.faces.milter_message import MOST_FORGED, Collector

_LIMIT_OCTETS = 1000
_LONG = b"X-Long\0 " + b"x" * 2 * _LIMIT_OCTETS + b"\0"
_FORGED = b"X-Mailonce\0 duplicate\0"


def _collector() -> Collector:
    return Collector(
        Client(),
        b"<alice@example.org>",
        has_leading_space=True,
        header_size_octets=_LIMIT_OCTETS,
        recipients=10,
    )


@pytest.mark.parametrize(
    ("batches", "forged"),
    [
        pytest.param([[_LONG], [_FORGED, b"A\0 b\0", b"x-mailonce\0\0"]], 2, id="beyond"),
        pytest.param([[_FORGED, _LONG], [_FORGED], [_FORGED]], 3, id="on both sides"),
        pytest.param([[_LONG], [b"X-Mailonce-Not\0 x\0"]], 0, id="another name"),
        pytest.param([[_LONG], *[[_FORGED] * 300] * 5], MOST_FORGED + 1, id="too many (P8)"),
    ],
)
def test_forged_fields_beyond_the_limit_are_counted(
    batches: list[list[bytes]], forged: int
) -> None:
    """They are removed wherever they stand, as the hop does it; nothing else there is looked at."""
    collector = _collector()
    for batch in batches:
        collector.take_fields(batch)
    collector.take_recipient(b"<bob@example.net>")
    letter = collector.finished(b"")
    assert len(letter.examination.forged) == forged
    assert not letter.is_checkable


@pytest.mark.parametrize(
    ("written", "removed"),
    [
        pytest.param(
            [b"<@relay.test,@b:bob@a.test>"],
            (b"<@relay.test,@b:bob@a.test>", b"<bob@a.test>"),
            id="route: the mail server may have forgotten it (RFC 5321 section 4.1.1.3)",
        ),
        pytest.param(
            [b"<@b:bob@a.test>", b"<bob@a.test>"],
            (b"<@b:bob@a.test>", b"<bob@a.test>"),
            id="route, then none",
        ),
        pytest.param(
            [b"<bob@a.test>", b"<@b:bob@a.test>"],
            (b"<bob@a.test>", b"<@b:bob@a.test>"),
            id="none, then a route",
        ),
        pytest.param([b"bob@a.test"], (b"bob@a.test",), id="no brackets: as it came"),
        pytest.param([b'<"b@"@a.test>'], (b'<"b@"@a.test>',), id="quotes: as they came"),
    ],
)
def test_recipient_is_removed_under_each_name_it_may_have(
    written: list[bytes], removed: tuple[bytes, ...]
) -> None:
    collector = _collector()
    for argument in written:
        collector.take_recipient(argument)
    letter = collector.finished(b"")
    assert letter.arguments == (removed,)
