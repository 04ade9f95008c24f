"""Names of clients: forward-confirmed, within a time-out, kept for a while."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest

from gateway.edge import resolver
from gateway.edge.resolver import TEMPUNAVAIL, UNAVAILABLE, Resolver, look_up

ADDRESS = "192.0.2.7"


def _raising(error: int) -> Callable[[str], str]:
    def ask(_: str) -> str:
        raise socket.gaierror(error, "no")

    return ask


def _never(address: str) -> str:
    raise AssertionError(f"{address} is known")


LOOK_UPS = [
    # realistic
    ("mail.example.org", {ADDRESS}, "mail.example.org", "confirmed"),
    ("mail.example.org", {"192.0.2.8", ADDRESS}, "mail.example.org", "one of several"),
    ("my_host.example.org", {ADDRESS}, "my_host.example.org", "an underscore, as Postfix has it"),
    ("mail.example.org", {"192.0.2.8"}, UNAVAILABLE, "leads elsewhere"),
    ("mail.example.org", set(), UNAVAILABLE, "leads nowhere"),
    # whoever owns an address has its reverse look-up say anything
    (ADDRESS, {ADDRESS}, UNAVAILABLE, "the address itself is no name"),
    ("a b.example.org", {ADDRESS}, UNAVAILABLE, "a blank"),
    ("a..example.org", {ADDRESS}, UNAVAILABLE, "an empty label"),
    ("-a.example.org", {ADDRESS}, UNAVAILABLE, "a hyphen first"),
    ("a" * 64 + ".example.org", {ADDRESS}, UNAVAILABLE, "a label too long"),
    (".".join(["a" * 60] * 5), {ADDRESS}, UNAVAILABLE, "a name too long"),
    ("[UNAVAILABLE]", {ADDRESS}, UNAVAILABLE, "brackets"),
    ("", {ADDRESS}, UNAVAILABLE, "empty"),
]


@pytest.mark.parametrize(
    ("name", "addresses", "expected", "reason"), LOOK_UPS, ids=[row[3] for row in LOOK_UPS]
)
def test_look_up(name: str, addresses: set[str], expected: str, reason: str) -> None:
    assert look_up(ADDRESS, lambda _: name, lambda _: addresses) == expected, reason


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (socket.EAI_NONAME, UNAVAILABLE),
        (socket.EAI_AGAIN, TEMPUNAVAIL),
        (socket.EAI_SYSTEM, TEMPUNAVAIL),
        (socket.EAI_FAIL, UNAVAILABLE),
    ],
)
def test_failures_of_the_dns(error: int, expected: str) -> None:
    assert look_up(ADDRESS, _raising(error)) == expected


async def test_a_dead_dns_costs_its_time_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: [TEMPUNAVAIL], so that the mail server puts off what it must; then from memory."""
    hung = threading.Event()

    def hang(_: str) -> str:
        hung.wait(60)
        return UNAVAILABLE

    monkeypatch.setattr(resolver, "look_up", hang)
    names = Resolver(timeout_s=0.05)
    begun = time.monotonic()
    try:
        assert await names.name_of(ADDRESS) == TEMPUNAVAIL
        monkeypatch.setattr(resolver, "look_up", _never)
        assert await names.name_of(ADDRESS) == TEMPUNAVAIL
        assert time.monotonic() - begun < 50
    finally:
        hung.set()
        names.close()


async def test_no_address_has_no_name() -> None:
    names = Resolver()
    assert await names.name_of("") == UNAVAILABLE
    names.close()
