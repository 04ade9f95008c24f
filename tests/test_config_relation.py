"""Relations between keys: what is just allowed. What is refused stands in `bad_configs`."""

from typing import Any

import pytest

from gateway.config import config_of
from gateway.config.relation import PROBLEMS
from gateway.errors import ConfigError

PUBLIC = {"smtp": ["0.0.0.0:25", "[::]:25"]}


def paths_of(document: dict[str, Any]) -> list[str]:
    try:
        config_of(document)
    except ConfigError as error:
        return [problem.partition(":")[0] for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("listen", "is_refused"),
    [
        ({"smtp": ["127.0.0.1:25", "[::1]:25", "localhost:26", "unix:/run/smtp"]}, False),
        ({"smtp": ["192.0.2.1:25"]}, True),
        ({"smtp": ["127.0.0.1:25", "192.0.2.1:25"]}, True),  # one that is open is enough
        ({"smtp": ["localhost.example.org:25"]}, True),  # any name but localhost is anywhere
        ({**PUBLIC, "clients": ["192.0.2.0/24", "2001:db8::/32"]}, False),
        ({**PUBLIC, "clients": ["192.0.2.0/24", "::/0"]}, True),
        ({**PUBLIC, "clients": ["0.0.0.0/1", "128.0.0.0/1"]}, True),  # the same as 0.0.0.0/0
        ({**PUBLIC, "clients": ["0.0.0.0/1"]}, False),  # half the world, but somebody meant it
        ({"smtp": ["127.0.0.1:25"], "proxy_protocol": ["127.0.0.1"]}, True),  # brings in anyone
        ({"smtp": ["127.0.0.1:25"], "clients": ["0.0.0.0/0"]}, True),
        (
            {"smtp": ["127.0.0.1:25"], "proxy_protocol": ["127.0.0.1"], "clients": ["10.0.0.0/8"]},
            False,
        ),
        ({"smtp": [], "milter": ["0.0.0.0:8890"]}, False),  # a milter relays nothing
    ],
)
@pytest.mark.parametrize("identity", ["none", "xforward"])
def test_p5_without_the_clients_address_we_know_the_clients(
    listen: dict[str, Any], identity: str, *, is_refused: bool
) -> None:
    """P5: a downstream that takes every client for us would relay for it."""
    document = {"listen": listen, "downstream": {"identity": identity}}
    assert paths_of(document) == (["downstream.identity"] if is_refused else [])


@pytest.mark.parametrize("identity", ["xclient", "proxy"])
def test_p5_with_the_clients_address_anyone_may_connect(identity: str) -> None:
    """P5: the downstream decides as if the client had connected to it."""
    assert paths_of({"listen": PUBLIC, "downstream": {"identity": identity}}) == []


@pytest.mark.parametrize("key", ["proxy_protocol", "xforward"])
@pytest.mark.parametrize(
    ("smtp", "networks", "is_refused"),
    [
        ("0.0.0.0:25", ["0.0.0.0/0"], True),
        ("0.0.0.0:25", ["::/1", "8000::/1"], True),
        ("0.0.0.0:25", ["10.0.0.0/8", "192.0.2.1"], False),
        ("127.0.0.1:25", ["0.0.0.0/0"], False),  # only this machine can connect anyway
    ],
)
def test_p5_not_everyone_is_believed(
    key: str, smtp: str, networks: list[str], *, is_refused: bool
) -> None:
    """P5: whoever is believed chooses the address that the downstream checks."""
    expected = [f"listen.{key}"] if is_refused else []
    assert paths_of({"listen": {"smtp": [smtp], key: networks}}) == expected


@pytest.mark.parametrize(
    "listen",
    [
        {"smtp": ["127.0.0.1:0", "127.0.0.1:0"], "http": "127.0.0.1:0"},  # any free port, twice
        {"smtp": ["127.0.0.1:25", "127.0.0.2:25", "[::1]:25"]},
        {"smtp": ["0.0.0.0:25", "[::]:25"], "http": "0.0.0.0:26"},  # families of their own
        {"smtp": ["unix:/run/a", "unix:/run/b"], "http": ""},
        {"smtp": [], "milter": ["127.0.0.1:25"]},
    ],
)
def test_listeners_that_get_along(listen: dict[str, Any]) -> None:
    assert paths_of({"listen": listen}) == []


@pytest.mark.parametrize(
    ("servers", "is_circle"),
    [
        (["smtp://127.0.0.1:2525"], True),
        (["smtp://LOCALHOST:2525"], True),
        (["smtp://[0:0::1]:2527"], True),  # another spelling
        (["smtp://127.0.0.1:2526"], False),
        (["smtp://mx.example.org:2525"], False),  # names are not resolved
        (["maildir:///run/smtp"], False),  # no connection goes there
        (["lmtp:///run/smtp"], True),
    ],
)
def test_we_are_not_our_own_downstream(servers: list[str], *, is_circle: bool) -> None:
    listen = {"smtp": ["127.0.0.1:2525", "unix:/run/smtp", "[::1]:2527"]}
    expected = ["downstream.servers[0]"] if is_circle else []
    assert paths_of({"listen": listen, "downstream": {"servers": servers}}) == expected


@pytest.mark.parametrize(
    "downstream",
    [
        {"servers": ["maildir:///var/mail/all"]},
        {"servers": ["lmtp:///run/lmtp"], "identity": "none"},
        {"servers": ["lmtp:///run/lmtp", "smtp://mx"], "identity": "proxy"},
        {"servers": ["smtp://mx", "lmtp://mx:24"], "tls": "required"},
        {"servers": ["smtp:///run/smtp"], "tls": "opportunistic"},
    ],
)
def test_downstreams_that_get_along(downstream: dict[str, Any]) -> None:
    assert paths_of({"downstream": downstream}) == []


def test_a_milter_alone_needs_no_downstream() -> None:
    listen = {"smtp": [], "milter": ["127.0.0.1:8890"]}
    assert paths_of({"listen": listen, "downstream": {"servers": []}}) == []


def test_any_window_and_any_lease_will_do() -> None:
    """Short ones make copies pass, at worst; they lose nothing."""
    assert paths_of({"store": {"lease": "1s", "window": "1s"}}) == []
    assert paths_of({"policy": [{"senders": ["*@example.org"], "window": "1m"}]}) == []


def test_memory_goes_with_one_worker() -> None:
    assert paths_of({"workers": 1, "store": {"url": "memory://"}}) == []
    assert paths_of({"workers": 8, "store": {"url": "redis://db"}}) == []


def test_a_rule_without_conditions_may_be_the_last() -> None:
    rules = [{"senders": ["*@example.org"], "action": "drop"}, {"action": "observe"}]
    assert paths_of({"policy": rules}) == []


def test_relations_are_told_beside_problems_of_other_keys_only() -> None:
    """A key that cannot be read is not guessed at, nor what depends on it."""
    document: dict[str, Any] = {"workers": "x", "tls": {"required": True}}
    document["store"] = {"url": "memory://"}
    assert paths_of(document) == ["workers", "tls.required"]
    document = {"workers": 2, "store": {"url": "memory:/"}}
    assert paths_of(document) == ["store.url"]


def test_each_relation_is_described_for_the_reference() -> None:
    for relation in PROBLEMS:
        assert (relation.__doc__ or "").strip().endswith(".")
