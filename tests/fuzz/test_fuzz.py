"""P8: hostile octets, a bounded number for each parser; `make fuzz` goes on for longer."""

from __future__ import annotations

import pytest

from tests.fuzz import targets
from tests.fuzz.draw import run
from tests.fuzz.targets import TARGETS

_EXAMPLES = {"smtp": 300}


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_octets(name: str) -> None:
    run(name, _EXAMPLES.get(name, 600))


def test_an_honest_conversation_comes_through() -> None:
    """Or the targets would prove nothing."""
    pause = targets.PAUSE
    commands = (b"EHLO a\r\n", b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", b"DATA\r\n")
    content = b"Message-ID: <a@b.c>\r\n\r\nHello\r\n.\r\nQUIT\r\n"
    said = targets._LOOP.run_until_complete(
        targets._converse(pause + pause.join((*commands, content)))
    )
    codes = [int(line[:3]) for line in said.splitlines() if line[3:4] == b" "]
    assert codes == [220, 250, 250, 250, 354, 250, 221]


def test_a_find_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that lets a bare line feed through to the server is found out."""
    monkeypatch.setattr("gateway.faces.smtp_connection.is_clean", bool)
    monkeypatch.setattr("gateway.faces.smtp.is_clean", bool)
    with pytest.raises(AssertionError):
        targets.smtp(b"\xff\xffEHLO a\r\n\xff\xffMAIL FROM:<a@b>\rRCPT\r\n")
