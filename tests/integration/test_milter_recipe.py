"""The recipes for the milter, as they stand in deploy/: their files work together."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.support.client import deliver
from tests.support.gateway import running_gateway
from tests.support.need import need
from tests.support.postfix import running_postfix
from tests.support.process import free_port
from tests.support.sendmail import Door, running_sendmail
from tests.support.sink import Sink

_ROOT = Path(__file__).parents[2]
_RECIPE = _ROOT / "deploy/postfix/milter"
_SENDMAIL = _ROOT / "deploy/sendmail"
_MESSAGE = b"From: a@example.com\r\nMessage-ID: <%b@example.com>\r\n\r\nx\r\n"


def _main_cf() -> dict[str, str]:
    lines = (_RECIPE / "main.cf").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _settings(port: int) -> dict[str, object]:
    """Return what config.toml says, but with a port of our own."""
    config = tomllib.loads((_RECIPE / "config.toml").read_text())
    assert config["listen"]["milter"] == ["127.0.0.1:8891"]
    return {
        "listen.smtp": config["listen"]["smtp"],
        "listen.milter": [f"127.0.0.1:{port}"],
        "downstream.servers": config["downstream"]["servers"],
        "dedup.action": config["dedup"]["action"],
        "milter.provisional": config["milter"]["provisional"],
    }


@pytest.mark.postfix
def test_recipe_marks_a_duplicate() -> None:
    need("postfix", root=True)
    main = _main_cf()
    port = free_port()
    assert main["smtpd_milters"] == "inet:127.0.0.1:8891"
    main["smtpd_milters"] = f"inet:127.0.0.1:{port}"
    with running_gateway(_settings(port)), running_postfix(main=main) as postfix:
        for _ in range(2):
            assert deliver(
                postfix.port, "a@example.com", ["b@example.org"], _MESSAGE % b"recipe"
            ).is_accepted
        first, second = postfix.wait_for_queued(2)
    assert b"X-Mailonce" not in first.message
    assert second.message.startswith(b"X-Mailonce: duplicate; ")


@pytest.mark.sendmail
@pytest.mark.parametrize("is_for_one_port", [False, True], ids=["each port", "one port"])
def test_recipe_for_sendmail_marks_a_duplicate(*, is_for_one_port: bool) -> None:
    port = free_port()
    mc = (_SENDMAIL / "mailonce.mc").read_text()
    assert mc.splitlines()[-1] in (_ROOT / "docs/milter.md").read_text()
    mc = mc.replace("8891@", f"{port}@")
    if is_for_one_port:
        mc = mc.replace("INPUT_MAIL_FILTER(", "MAIL_FILTER(")
    doors = Door("mailonce" if is_for_one_port else ""), Door()
    with (
        Sink() as sink,
        running_sendmail(*doors, passes_to=sink.port, mc=mc) as sendmail,
        running_gateway(_settings(port)),
    ):
        for door in (doors[0], doors[0], doors[1]):
            assert deliver(
                door.port, "a@example.com", ["b@example.org"], _MESSAGE % b"recipe"
            ).is_accepted
        sendmail.wait_until_idle()
    marked = [each.message.startswith(b"X-Mailonce: duplicate; ") for each in sink.accepted]
    assert marked == [False, True, not is_for_one_port]
