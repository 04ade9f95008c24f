"""What a Redis URL means: which servers, and how to be let in.

    redis://[user:password@]host[:port][/database]       rediss:// for TLS
    unix://[user:password@]/path[?db=number]
    redis+sentinel://[user:password@]host[:port],host[:port]/name[/database]
    redis+cluster://[user:password@]host[:port],host[:port]
                                              rediss+sentinel://, rediss+cluster:// for TLS

Schemes and parameters are those of redis-py as far as they make sense here; time-outs and retries
are no matter of the URL. Nothing is connected here; certificates are read. Fails with `ConfigError`
for anything that is not understood.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from gateway.edge.redis_wire import Server
from gateway.errors import ConfigError

_REDIS_PORT = 6379
_SENTINEL_PORT = 26379
_VERIFY_MODES = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_TLS_PARAMETERS = frozenset(
    (
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_ca_data",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password",
        "ssl_cert_reqs",
        "ssl_check_hostname",
        "ssl_min_version",
        "ssl_ciphers",
    )
)
_PARAMETERS = frozenset(
    ("db", "username", "password", "sentinel_username", "sentinel_password", *_TLS_PARAMETERS)
)


class Kind(StrEnum):
    """What stands behind a URL."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says.

    Attributes:
        kind: of installation.
        servers: the server; or the Sentinels, or some nodes of the cluster, in order.
        member: how to be let in by the master that the Sentinels name; else the first server.
        group: what the Sentinels call the master and its replicas, or ``""``.
    """

    kind: Kind
    servers: tuple[Server, ...]
    member: Server
    group: str = ""


def parse(url: str) -> Target:
    """Read a URL.

    Raises:
        ConfigError: it cannot be understood, or a certificate cannot be read.
    """
    try:
        parts = _split(url)
        parameters = _parameters(parts)
        match parts.scheme.partition("+"):
            case ("unix", "", ""):
                return _single(_unix(parts, parameters))
            case ("redis" | "rediss" as scheme, "", ""):
                server = _hosts(parts, _REDIS_PORT, _admission(parts, parameters, scheme))
                if len(server) > 1:
                    _refuse("several hosts need redis+sentinel:// or redis+cluster://")
                return _single(_with_database(server[0], parts.path.strip("/"), parameters))
            case ("redis" | "rediss" as scheme, "+", "cluster"):
                nodes = _hosts(parts, _REDIS_PORT, _admission(parts, parameters, scheme))
                if parts.path.strip("/") not in ("", "0") or parameters.get("db", "0") != "0":
                    _refuse("a cluster has no databases")
                return Target(Kind.CLUSTER, nodes, nodes[0])
            case ("redis" | "rediss" as scheme, "+", "sentinel"):
                return _sentinel(parts, parameters, scheme)
            case _:
                _refuse(f"unknown scheme {parts.scheme!r}")
    except (ValueError, OSError) as error:
        raise ConfigError((f"store.url: {error}",)) from error


def _split(url: str) -> SplitResult:
    """Split a URL whose authority may hold several hosts.

    `urlsplit` knows of one: since 2024 it refuses a bracket that is not the host's first octet.
    """
    scheme, mark, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    return urlsplit(f"{scheme}{mark}{rest.removeprefix(authority)}")._replace(netloc=authority)


def _single(server: Server) -> Target:
    return Target(Kind.SINGLE, (server,), server)


def _unix(parts: SplitResult, parameters: Mapping[str, str]) -> Server:
    if not parts.path:
        _refuse("the path is missing: unix:///path")
    admission = _admission(parts, parameters, "redis")
    server = Server("", 0, unquote(parts.path), admission.username, admission.password)
    return _with_database(server, "", parameters)


def _sentinel(parts: SplitResult, parameters: Mapping[str, str], scheme: str) -> Target:
    group, _, database = unquote(parts.path).strip("/").partition("/")
    if not group:
        _refuse("the name of the master is missing: redis+sentinel://host/name")
    member = _admission(parts, parameters, scheme)
    own = Server(
        "",
        0,
        username=parameters.get("sentinel_username", ""),
        password=parameters.get("sentinel_password", ""),
        tls=member.tls,
    )
    sentinels = _hosts(parts, _SENTINEL_PORT, own)
    return Target(Kind.SENTINEL, sentinels, _with_database(member, database, parameters), group)


def _parameters(parts: SplitResult) -> dict[str, str]:
    parameters = dict(
        parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    )
    unknown = ", ".join(sorted(parameters.keys() - _PARAMETERS))
    if unknown:
        _refuse(f"unknown parameter {unknown}")
    if parts.fragment:
        _refuse("a # in a password is written %23")
    return parameters


def _admission(parts: SplitResult, parameters: Mapping[str, str], scheme: str) -> Server:
    """Return what lets us in, without a place."""
    user_info = parts.netloc.rpartition("@")[0]
    username, _, password = user_info.partition(":")
    is_tls = scheme == "rediss"
    if not is_tls and parameters.keys() & _TLS_PARAMETERS:
        _refuse("ssl_ parameters need rediss://")
    return Server(
        "",
        0,
        username=unquote(username) or parameters.get("username", ""),
        password=unquote(password) or parameters.get("password", ""),
        tls=_context(parameters) if is_tls else None,
    )


def _hosts(parts: SplitResult, default_port: int, admission: Server) -> tuple[Server, ...]:
    texts = parts.netloc.rpartition("@")[2].split(",")
    return tuple(_host(text, default_port, admission) for text in texts)


def _host(text: str, default_port: int, admission: Server) -> Server:
    place = urlsplit(f"//{text}")
    if not place.hostname:
        _refuse(f"a host is missing in {text!r}")
    return replace(admission, host=place.hostname, port=place.port or default_port)


def _with_database(server: Server, in_path: str, parameters: Mapping[str, str]) -> Server:
    text = in_path or parameters.get("db", "0")
    if not (text.isascii() and text.isdigit()):
        _refuse(f"{text!r} is no number of a database")
    return replace(server, database=int(text))


def _context(parameters: Mapping[str, str]) -> ssl.SSLContext:
    """Return a TLS context: with the system's authorities, unless others are named."""
    named = {name: parameters.get(f"ssl_ca_{name}") for name in ("certs", "path", "data")}
    context = ssl.create_default_context(
        cafile=named["certs"], capath=named["path"], cadata=named["data"]
    )
    mode = parameters.get("ssl_cert_reqs", "required")
    if mode not in _VERIFY_MODES:
        _refuse("ssl_cert_reqs is none, optional or required")
    checks_name = _truth(parameters.get("ssl_check_hostname", "true"))
    context.check_hostname = checks_name and mode != "none"
    context.verify_mode = _VERIFY_MODES[mode]
    if "ssl_certfile" in parameters:
        context.load_cert_chain(
            parameters["ssl_certfile"],
            parameters.get("ssl_keyfile"),
            parameters.get("ssl_password", ""),
        )
    if "ssl_min_version" in parameters:
        context.minimum_version = ssl.TLSVersion(int(parameters["ssl_min_version"]))
    if "ssl_ciphers" in parameters:
        context.set_ciphers(parameters["ssl_ciphers"])
    return context


def _truth(text: str) -> bool:
    return text.lower() not in ("0", "f", "false", "n", "no", "")


def _refuse(problem: str) -> NoReturn:
    raise ValueError(problem)
