"""The recipe for the milter, as it stands in deploy/: its files work together."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.support.client import deliver
from tests.support.gateway import running_gateway
from tests.support.need import need
from tests.support.postfix import running_postfix
from tests.support.process import free_port

_RECIPE = Path(__file__).parents[2] / "deploy/postfix/milter"
_MESSAGE = b"From: a@example.com\r\nMessage-ID: <%b@example.com>\r\n\r\nx\r\n"


def _main_cf() -> dict[str, str]:
    lines = (_RECIPE / "main.cf").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


@pytest.mark.postfix
def test_recipe_marks_a_duplicate() -> None:
    need("postfix", root=True)
    config = tomllib.loads((_RECIPE / "config.toml").read_text())
    main = _main_cf()
    [address] = config["listen"]["milter"]
    assert main["smtpd_milters"] == f"inet:{address}"
    port = free_port()
    main["smtpd_milters"] = f"inet:127.0.0.1:{port}"
    settings = {
        "listen.smtp": config["listen"]["smtp"],
        "listen.milter": [f"127.0.0.1:{port}"],
        "downstream.servers": config["downstream"]["servers"],
        "dedup.action": config["dedup"]["action"],
        "milter.provisional": config["milter"]["provisional"],
    }
    with running_gateway(settings), running_postfix(main=main) as postfix:
        for _ in range(2):
            assert deliver(
                postfix.port, "a@example.com", ["b@example.org"], _MESSAGE % b"recipe"
            ).is_accepted
        first, second = postfix.wait_for_queued(2)
    assert b"X-Mailonce" not in first.message
    assert second.message.startswith(b"X-Mailonce: duplicate; ")
