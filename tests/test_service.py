"""What a reload cannot change is said, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import config_of
from gateway.service import _fixed


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        ({"workers": 2}, ["workers"]),
        ({"listen": {"smtp": ["127.0.0.1:26"]}}, ["listen.smtp"]),
        # Whoever changes it thinks that the old one is worth nothing any more.
        ({"listen": {"http_token": "another"}}, ["listen.http_token"]),
        ({"store": {"timeout": "1s"}}, ["store.timeout"]),
        ({"journal": {"entries": 10}}, ["journal.entries"]),
        ({"journal": {"keep": "all"}}, []),
        ({"log": {"level": "debug"}}, ["log"]),
        ({"dedup": {"action": "drop"}}, []),
    ],
)
def test_what_needs_a_restart_is_named(changed: dict[str, Any], keys: list[str]) -> None:
    assert list(_fixed(config_of({}), config_of(changed))) == keys
