"""Remarks on a configuration that is allowed, and the files it names."""

from pathlib import Path
from typing import Any

import pytest

from gateway.config import config_of
from gateway.config.remark import REMARKS, missing_files, remarks

PUBLIC = {"smtp": ["0.0.0.0:25"]}


def paths_of(document: dict[str, Any]) -> list[str]:
    return [remark.path for remark in remarks(config_of(document))]


def test_there_is_nothing_to_remark_on_the_defaults() -> None:
    assert paths_of({}) == []


@pytest.mark.parametrize("key", ["clients", "proxy_protocol", "xforward"])
@pytest.mark.parametrize(
    ("smtp", "networks", "expected"),
    [
        ("127.0.0.1:25", ["192.0.2.0/24"], True),
        ("unix:/run/smtp", ["192.0.2.0/24"], True),
        ("127.0.0.1:25", ["192.0.2.0/24", "127.0.0.0/8"], False),
        ("127.0.0.1:25", ["0.0.0.0/0"], False),
        ("[::1]:25", ["::/64"], False),
        ("0.0.0.0:25", ["192.0.2.0/24"], False),
    ],
)
def test_networks_from_which_nobody_can_connect(
    key: str, smtp: str, networks: list[str], *, expected: bool
) -> None:
    found = [
        remark
        for remark in remarks(config_of({"listen": {"smtp": [smtp], key: networks}}))
        if remark.path == f"listen.{key}" and "only this machine" in remark.message
    ]
    assert bool(found) is expected


def test_clients_of_a_proxy_come_from_anywhere() -> None:
    listen = {"proxy_protocol": ["127.0.0.1"], "clients": ["192.0.2.0/24"]}
    assert paths_of({"listen": listen}) == []


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ({"http": "0.0.0.0:9125"}, True),
        ({"http": "0.0.0.0:9125", "http_token": "s3same"}, False),
        ({"http": "unix:/run/http"}, False),
        ({"http": ""}, False),
    ],
)
def test_a_console_that_is_closed(listen: dict[str, Any], *, expected: bool) -> None:
    assert paths_of({"listen": listen}) == ["listen.http_token"] * expected


def test_xforward_that_is_not_passed_on() -> None:
    listen = {"xforward": ["127.0.0.1"]}
    assert paths_of({"listen": listen}) == ["listen.xforward"]
    assert paths_of({"listen": listen, "downstream": {"identity": "xforward"}}) == []


def test_p5_a_probe_that_is_off() -> None:
    """P5: without it nobody notices that the downstream relays for us."""
    downstream = {"relay_probe": ""}
    assert paths_of({"listen": PUBLIC, "downstream": downstream}) == ["downstream.relay_probe"]
    assert paths_of({"downstream": downstream}) == []
    lmtp = {**downstream, "servers": ["lmtp://127.0.0.1"]}
    assert paths_of({"listen": PUBLIC, "downstream": lmtp}) == []


@pytest.mark.parametrize(
    ("dedup", "rule", "expected"),
    [
        ({"action": "drop", "match": "message-id"}, {}, ["dedup.match"]),
        ({"action": "drop"}, {}, []),
        ({"match": "message-id"}, {}, []),
        ({"action": "drop"}, {"match": "message-id"}, ["policy[0].match"]),
        ({"match": "message-id"}, {"action": "drop"}, ["policy[0].match"]),
        ({}, {"action": "drop", "match": "message-id"}, ["policy[0].match"]),
        ({"action": "drop", "match": "message-id"}, {"action": "tag"}, ["dedup.match"]),
        ({"action": "drop", "match": "message-id"}, {"window": "1d"}, ["dedup.match"]),
    ],
)
def test_p6_an_id_that_is_enough_to_drop(
    dedup: dict[str, str], rule: dict[str, str], expected: list[str]
) -> None:
    """P6: the postmaster may choose it, and is told what it means."""
    rules = [{"senders": ["*@example.org"], **rule}] if rule else []
    assert paths_of({"dedup": dedup, "policy": rules}) == expected


def test_a_bypass_that_sets_more() -> None:
    rule = {"senders": ["*@example.org"], "action": "bypass", "match": "content", "window": "1d"}
    assert paths_of({"policy": [rule]}) == ["policy[0].match", "policy[0].window"]


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ({"url": "redis://db"}, True),
        ({"url": "redis+sentinel://127.0.0.1,db/main"}, True),
        ({"url": "redis://db", "secret": "pepper"}, False),
        ({"url": "redis://127.0.0.1"}, False),
        ({"url": "sqlite:///seen.db"}, False),
    ],
)
def test_a_list_elsewhere_without_a_secret(store: dict[str, str], *, expected: bool) -> None:
    assert paths_of({"store": store}) == ["store.secret"] * expected


@pytest.mark.parametrize(
    ("lease", "window", "expected"),
    [
        ("20m", "5d", []),
        ("800s", "5d", []),  # three quarters of it are 10m, to the letter
        ("799s", "5d", ["store.lease"]),
        ("20m", "1199s", ["store.window"]),
        ("2s", "1s", ["store.lease", "store.window"]),
    ],
)
def test_a_lease_or_a_window_that_is_short(lease: str, window: str, expected: list[str]) -> None:
    assert paths_of({"store": {"lease": lease, "window": window}}) == expected


def test_p1_no_delivery_outlives_its_lease() -> None:
    """P1: a lease that is short shortens the wait for the final reply."""
    assert config_of({}).final_reply_wait_s == 600.0
    assert config_of({"store": {"lease": "4s"}}).final_reply_wait_s == 3.0
    downstream = {"final_reply_timeout": "1s"}
    short = {"store": {"lease": "4s"}, "downstream": downstream}
    assert config_of(short).final_reply_wait_s == 1.0


def test_milter_sightings_that_stay_provisional() -> None:
    milter = {"provisional": "5d"}
    assert paths_of({"milter": milter}) == []
    listen = {"milter": ["127.0.0.1:8890"]}
    assert paths_of({"listen": listen, "milter": milter}) == ["milter.provisional"]


def test_each_remark_is_described_for_the_reference() -> None:
    for relation in REMARKS:
        assert (relation.__doc__ or "").strip().endswith(".")


def test_files_that_are_there(tmp_path: Path) -> None:
    pem = tmp_path / "a.pem"
    pem.touch()
    document = {
        "tls": {"certificate": str(pem), "key": str(pem)},
        "store": {"url": f"rediss://127.0.0.1?ssl_ca_certs={pem}&socket_keepalive=true"},
    }
    assert list(missing_files(config_of(document))) == []
    assert list(missing_files(config_of({}))) == []


def test_files_that_are_not_there(tmp_path: Path) -> None:
    document = {
        "tls": {"certificate": str(tmp_path / "a.pem"), "key": str(tmp_path)},
        "store": {"url": f"rediss://:hunter2@127.0.0.1?ssl_ca_certs={tmp_path}/ca.pem"},
    }
    assert [str(problem) for problem in missing_files(config_of(document))] == [
        f"tls.certificate: the file {tmp_path}/a.pem does not exist",
        f"tls.key: the file {tmp_path} is no file",
        f"store.url: the file {tmp_path}/ca.pem does not exist",
    ]
