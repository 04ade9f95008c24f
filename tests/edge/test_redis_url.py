"""What a Redis URL means, and what is said of one that means nothing."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest

from gateway.edge.redis_url import Kind, Target, parse
from gateway.edge.redis_wire import Server
from gateway.errors import ConfigError

LOCAL = Server("127.0.0.1", 6379)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("redis://127.0.0.1", LOCAL),
        ("redis://127.0.0.1/", LOCAL),
        ("redis://127.0.0.1:7000/3", replace(LOCAL, port=7000, database=3)),
        ("redis://127.0.0.1?db=4", replace(LOCAL, database=4)),
        ("redis://[::1]:7000", Server("::1", 7000)),
        ("redis://:secret@127.0.0.1", replace(LOCAL, password="secret")),
        ("redis://user:p%40ss%2F@127.0.0.1", replace(LOCAL, username="user", password="p@ss/")),
        ("redis://127.0.0.1?username=u&password=p", replace(LOCAL, username="u", password="p")),
        ("unix:///run/redis.sock", Server("", 0, "/run/redis.sock")),
        ("unix:///a%20b.sock?db=2", Server("", 0, "/a b.sock", database=2)),
        ("unix://u:p@/run/redis.sock", Server("", 0, "/run/redis.sock", "u", "p")),
    ],
)
def test_single(url: str, server: Server) -> None:
    assert parse(url) == Target(Kind.SINGLE, (server,), server)


def test_sentinel() -> None:
    target = parse(
        "redis+sentinel://u:p@one,two:26000,[::1]/mail/2?sentinel_username=su&sentinel_password=sp"
    )
    assert target.kind is Kind.SENTINEL
    assert target.group == "mail"
    assert [(s.host, s.port, s.username, s.password, s.database) for s in target.servers] == [
        ("one", 26379, "su", "sp", 0),
        ("two", 26000, "su", "sp", 0),
        ("::1", 26379, "su", "sp", 0),
    ]
    member = target.member
    assert (member.username, member.password, member.database) == ("u", "p", 2)


def test_cluster() -> None:
    target = parse("redis+cluster://u:p@one:7000,two")
    assert target.kind is Kind.CLUSTER
    assert [(s.host, s.port, s.username, s.password) for s in target.servers] == [
        ("one", 7000, "u", "p"),
        ("two", 6379, "u", "p"),
    ]


def test_tls_is_verified_by_default() -> None:
    context = parse("rediss://redis.example").member.tls
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("scheme", ["rediss+sentinel://one/mail", "rediss+cluster://one"])
def test_tls_is_for_all_of_a_group(scheme: str) -> None:
    target = parse(scheme)
    assert all(server.tls is not None for server in (*target.servers, target.member))


def test_tls_may_be_loosened() -> None:
    unnamed = parse("rediss://h?ssl_check_hostname=false").member.tls
    assert unnamed is not None
    assert (unnamed.check_hostname, unnamed.verify_mode) == (False, ssl.CERT_REQUIRED)
    blind = parse("rediss://h?ssl_cert_reqs=none&ssl_min_version=772").member.tls
    assert blind is not None
    assert (blind.check_hostname, blind.verify_mode) == (False, ssl.CERT_NONE)
    assert blind.minimum_version is ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://h", "unknown scheme 'http'"),
        ("redis+http://h", "unknown scheme 'redis\\+http'"),
        ("", "unknown scheme ''"),
        ("redis://", "a host is missing"),
        ("redis://one,two", "redis\\+sentinel:// or redis\\+cluster://"),
        ("redis://h/mail", "'mail' is no number of a database"),
        ("redis://h/-1", "no number of a database"),
        ("redis://h:port", "Port could not be cast"),
        ("redis://h?timeout=1", "unknown parameter timeout"),
        ("redis://h?=1&ssl_verify=1", "unknown parameter"),
        ("redis://:a#b@h", "%23|Port"),
        ("redis://h?ssl_ca_certs=/x", "need rediss://"),
        ("rediss://h?ssl_ca_certs=/nowhere", "No such file"),
        ("rediss://h?ssl_certfile=/nowhere", "No such file"),
        ("rediss://h?ssl_cert_reqs=perhaps", "none, optional or required"),
        ("rediss://h?ssl_ciphers=XYZ", "cipher"),
        ("rediss://h?ssl_min_version=9", "9 is not a valid TLSVersion"),
        ("unix://", "the path is missing"),
        ("redis+sentinel://one", "the name of the master is missing"),
        ("redis+sentinel://one,/mail", "a host is missing in ''"),
        ("redis+cluster://one/3", "a cluster has no databases"),
        ("redis+cluster://one?db=3", "a cluster has no databases"),
    ],
)
def test_what_cannot_be_understood_is_said(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^store\\.url: .*({problem})"):
        parse(url)


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    assert str(parse("redis://[2001:db8::1]:6380/0").servers[0]) == "[2001:db8::1]:6380"
