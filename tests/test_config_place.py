"""Where things are: endpoints, servers and the URL of the tracking list."""

import pytest

from gateway.config.place import (
    Endpoint,
    Scheme,
    Server,
    StoreScheme,
    host_port,
    is_loopback,
    parse_endpoint,
    parse_server,
    parse_store_url,
)


@pytest.mark.parametrize(
    ("text", "endpoint", "is_local"),
    [
        ("127.0.0.1:2525", Endpoint("127.0.0.1", 2525), True),
        ("127.9.9.9:25", Endpoint("127.9.9.9", 25), True),  # all of 127/8 is
        ("localhost:25", Endpoint("localhost", 25), True),
        ("[::1]:0", Endpoint("::1", 0), True),
        ("[::ffff:127.0.0.1]:25", Endpoint("::ffff:127.0.0.1", 25), True),
        ("unix:/run/mailonce/smtp", Endpoint(path="/run/mailonce/smtp"), True),
        ("0.0.0.0:25", Endpoint("0.0.0.0", 25), False),
        ("[::]:25", Endpoint("::", 25), False),
        ("192.0.2.1:25", Endpoint("192.0.2.1", 25), False),
        ("mx.example.org:25", Endpoint("mx.example.org", 25), False),
        ("localhost.example.org:25", Endpoint("localhost.example.org", 25), False),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint, *, is_local: bool) -> None:
    found = parse_endpoint(text)
    assert (found, found.is_local, str(found)) == (endpoint, is_local, text)


@pytest.mark.parametrize(
    ("text", "server", "shown"),
    [
        ("smtp://127.0.0.1:10026", Server(Scheme.SMTP, "127.0.0.1", 10026), None),
        ("smtp://mx", Server(Scheme.SMTP, "mx", 25), "smtp://mx:25"),
        ("lmtp://[::1]", Server(Scheme.LMTP, "::1", 24), "lmtp://[::1]:24"),
        ("smtp://mail_server:25", Server(Scheme.SMTP, "mail_server", 25), None),  # a container's
        ("lmtp:///run/dovecot/lmtp", Server(Scheme.LMTP, path="/run/dovecot/lmtp"), None),
        ("maildir:///var/mail/a b", Server(Scheme.MAILDIR, path="/var/mail/a b"), None),
    ],
)
def test_servers(text: str, server: Server, shown: str | None) -> None:
    assert parse_server(text) == server
    assert str(server) == (shown or text)


@pytest.mark.parametrize(
    ("text", "scheme", "hosts", "rest", "shown"),
    [
        ("sqlite:///a/b.db", "sqlite", (), ("", 0, "/a/b.db"), "sqlite:///a/b.db"),
        ("sqlite:////a/b.db", "sqlite", (), ("", 0, "/a/b.db"), "sqlite:///a/b.db"),  # a habit
        ("memory://", "memory", (), ("", 0, ""), "memory://"),
        ("redis://db", "redis", (("db", 6379),), ("", 0, ""), "redis://db:6379"),
        ("redis://u:p@[::1]:7/3", "redis", (("::1", 7),), ("", 3, ""), "redis://[::1]:7/3"),
        ("redis://db/?db=2", "redis", (("db", 6379),), ("", 0, ""), "redis://db:6379"),
        (
            "rediss://:p%40ss@db:6380/1?ssl_ca_certs=/etc/ca.pem",
            "rediss",
            (("db", 6380),),
            ("", 1, ""),
            "rediss://db:6380/1",
        ),
        (
            "redis+sentinel://:p@a,b:1,[::1]:2/mymaster/4",
            "redis+sentinel",
            (("a", 26379), ("b", 1), ("::1", 2)),
            ("mymaster", 4, ""),
            "redis+sentinel://a:26379,b:1,[::1]:2/mymaster/4",
        ),
        (
            "rediss+sentinel://a/main",
            "rediss+sentinel",
            (("a", 26379),),
            ("main", 0, ""),
            "rediss+sentinel://a:26379/main",
        ),
        (
            "redis+cluster://a,b:7001/0",
            "redis+cluster",
            (("a", 6379), ("b", 7001)),
            ("", 0, ""),
            "redis+cluster://a:6379,b:7001",
        ),
        (
            "rediss+cluster://a",
            "rediss+cluster",
            (("a", 6379),),
            ("", 0, ""),
            "rediss+cluster://a:6379",
        ),
    ],
)
def test_store_urls(
    text: str,
    scheme: str,
    hosts: tuple[tuple[str, int], ...],
    rest: tuple[str, int, str],
    shown: str,
) -> None:
    url = parse_store_url(text)
    assert (url.scheme, url.hosts, (url.name, url.database, url.path)) == (scheme, hosts, rest)
    assert url.text.get_secret_value() == text
    assert str(url) == shown
    assert ":p" not in repr(url)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "redis:/db",
        "REDIS://db",
        "redis://db/0#1",
        "redis://db/0/1",
        "redis://a b",
        "redis://@",
        "redis+sentinel://a,/name",
        "redis+sentinel://a/na me",
        "sqlite:///",
        "sqlite://host/a.db",
        "sqlite:///a.db?mode=ro",
        "memory:///",
        "redis://:\udcff@db",
        "redis://:a\nb@db",
    ],
)
def test_what_no_store_url_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected "):
        parse_store_url(text)


def test_kinds_of_store_url() -> None:
    redis = [scheme for scheme in StoreScheme if scheme.is_redis]
    assert set(StoreScheme) - set(redis) == {StoreScheme.SQLITE, StoreScheme.MEMORY}
    assert {s for s in redis if s.is_sentinel} == {StoreScheme.SENTINEL, StoreScheme.SENTINEL_TLS}
    assert {s for s in redis if s.is_cluster} == {StoreScheme.CLUSTER, StoreScheme.CLUSTER_TLS}


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "::1", "LOCALHOST", "::ffff:127.1.2.3")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.1", "mx.example.org", "")))


def test_ipv6_addresses_stand_in_brackets() -> None:
    assert host_port("::1", 25) == "[::1]:25"
    assert host_port("192.0.2.1", 25) == "192.0.2.1:25"
