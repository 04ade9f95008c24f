"""Where things are: endpoints to listen on, servers to pass mail to, the tracking list's URL.

The same rules hold as in `config.type`: each `parse_…` function takes whatever came and returns a
frozen value, nothing is opened or resolved, and the ``ValueError`` it fails with is meant for a
postmaster. A store URL is never quoted, since it can hold a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from pydantic import SecretStr

from gateway.config.type import Notation, is_host_name, is_path, refusal
from gateway.core.rule import address_of

_HOST_PORT = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?")
_MAX_PORT = 65_535
_MAX_SOCKET_PATH_OCTETS = 107  # sockaddr_un.sun_path of Linux, less the final NUL
_STORE_URL = re.compile(r"([a-z][a-z0-9+]*)://(?:([^/?#]*)@)?([^/?#@]*)(/[^?#]*)?(\?[^#]*)?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20})://")


class Scheme(StrEnum):
    """How a downstream server is spoken to."""

    SMTP = "smtp"
    LMTP = "lmtp"
    MAILDIR = "maildir"


class StoreScheme(StrEnum):
    """Which tracking list a ``store.url`` means."""

    SQLITE = "sqlite"
    MEMORY = "memory"
    REDIS = "redis"
    REDISS = "rediss"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"
    SENTINEL_TLS = "rediss+sentinel"
    CLUSTER_TLS = "rediss+cluster"

    @property
    def is_redis(self) -> bool:
        """Say whether it is a Redis of any kind."""
        return self.startswith("redis")

    @property
    def is_sentinel(self) -> bool:
        """Say whether its hosts are Sentinels, to be asked for the master."""
        return self.endswith("+sentinel")

    @property
    def is_cluster(self) -> bool:
        """Say whether its hosts are nodes of a Redis Cluster."""
        return self.endswith("+cluster")


WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - to recognize what is written; nothing is bound here
_DEFAULT_PORT = {Scheme.SMTP: 25, Scheme.LMTP: 24}
_URL_SHAPES = {
    StoreScheme.SQLITE: '"sqlite:///path/to/file.db", with three slashes',
    StoreScheme.MEMORY: '"memory://" and nothing else',
    StoreScheme.REDIS: '"redis://host:6379/0"',
    StoreScheme.REDISS: '"rediss://host:6379/0"',
    StoreScheme.SENTINEL: '"redis+sentinel://host1,host2/name/0"',
    StoreScheme.CLUSTER: '"redis+cluster://host1,host2"',
    StoreScheme.SENTINEL_TLS: '"rediss+sentinel://host1,host2/name/0"',
    StoreScheme.CLUSTER_TLS: '"rediss+cluster://host1,host2"',
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where we listen: host and port, or the path of a unix socket.

    Attributes:
        host: name or address without brackets; ``""`` for a unix socket.
        port: 0 takes any free one.
        path: absolute; ``""`` for host and port.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Say whether only this machine can connect: loopback address, localhost or unix socket."""
        return bool(self.path) or is_loopback(self.host)

    def __str__(self) -> str:
        """Show as in the configuration."""
        return f"unix:{self.path}" if self.path else host_port(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Server:
    """Where mail is passed to.

    Attributes:
        scheme: protocol, or a Maildir.
        host: name or address without brackets; ``""`` where there is a path.
        port: 0 where there is a path.
        path: of a unix socket or of the Maildir; ``""`` for host and port.
    """

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """Show as in the configuration."""
        return f"{self.scheme}://{self.path or host_port(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where the tracking list is. Shown without user, password and options.

    Attributes:
        scheme: kind of list.
        text: the whole URL.
        hosts: names and ports of Redis or Sentinel servers.
        name: under which Sentinel knows the master.
        database: number of the Redis database.
        path: of the SQLite file.
    """

    scheme: StoreScheme
    text: SecretStr = field(repr=False)
    hosts: tuple[tuple[str, int], ...] = ()
    name: str = ""
    database: int = 0
    path: str = ""

    def __str__(self) -> str:
        """Show where it is, fit for a log."""
        hosts = ",".join(host_port(host, port) for host, port in self.hosts)
        rest = self.path or "".join(f"/{part}" for part in (self.name, self.database) if part)
        return f"{self.scheme}://{hosts}{rest}"


def parse_endpoint(value: object) -> Endpoint:
    """Read ``"host:port"``, ``"[::]:25"`` or ``"unix:/path"``."""
    text = value if isinstance(value, str) else ""
    if text.startswith("unix:") and is_path(text[5:]):
        return Endpoint(path=_socket_path(text[5:]))
    found = _parse_host_port(text)
    if found and found[1] is not None:
        return Endpoint(found[0], found[1])
    meant = ""
    if match := re.fullmatch(r"(?:\*|):([0-9]{1,5})", text):
        meant = f'for all addresses write "0.0.0.0:{match[1]}" or "[::]:{match[1]}"'
    elif (match := re.fullmatch(r"(.*:.*):([0-9]{1,5})", text)) and address_of(match[1]):
        meant = f'did you mean "[{match[1]}]:{match[2]}"?'
    elif text.startswith("/"):
        meant = f'did you mean "unix:{text}"?'
    raise refusal('"host:port", "[::]:25" or "unix:/path"', value, meant)


def parse_server(value: object) -> Server:
    """Read ``smtp://`` or ``lmtp://`` with host and port or socket path, or ``maildir:///path``."""
    expected = '"smtp://host:port", "lmtp:///path/to/socket" or "maildir:///path"'
    name, separator, rest = value.partition("://") if isinstance(value, str) else ("", "", "")
    if not separator or name not in Scheme.__members__.values():
        is_bare = isinstance(value, str) and not separator and _parse_host_port(value) is not None
        raise refusal(expected, value, f'did you mean "smtp://{value}"?' if is_bare else "")
    scheme = Scheme(name)
    if scheme is Scheme.MAILDIR:
        if not is_path(rest):
            raise refusal(expected, value, "a Maildir has an absolute path, and so three slashes")
        return Server(scheme, path=rest)
    if is_path(rest):
        return Server(scheme, path=_socket_path(rest))
    host, port = _parse_host_port(rest) or ("", None)
    if not host or port == 0:
        raise refusal(expected, value)
    if host in WILDCARDS:
        raise refusal(expected, value, "that is an address to listen on, not one to connect to")
    return Server(scheme, host, _DEFAULT_PORT[scheme] if port is None else port)


def parse_store_url(value: object) -> StoreUrl:
    """Read a ``store.url``; no message quotes it, since it can hold a password."""
    known = ", ".join(f"{scheme}://" for scheme in StoreScheme)
    text = value if isinstance(value, str) else ""
    start = _SCHEME.match(text)
    if start is None:
        raise ValueError(f"expected a URL that begins with one of {known}")
    if start[1] not in StoreScheme.__members__.values():
        raise ValueError(f"{start[1]}:// is not known; expected one of {known}")
    scheme = StoreScheme(start[1])
    match = _STORE_URL.fullmatch(text) if text.isprintable() else None
    url = _store_url(scheme, match) if match else None
    if url is None:
        raise ValueError(f"expected {_URL_SHAPES[scheme]}{_url_hint(scheme, text)}")
    return url


def _url_hint(scheme: StoreScheme, text: str) -> str:
    """Say what is likely to be wrong with a URL, without quoting it."""
    if scheme is StoreScheme.SQLITE and ":memory:" in text:
        return "; a list in memory is memory://"
    if scheme.is_redis and "@" in text:
        return "; in a password write / as %2F, ? as %3F, # as %23 and @ as %40"
    if scheme in (StoreScheme.REDIS, StoreScheme.REDISS) and "," in text:
        return "; several hosts are for redis+sentinel:// and redis+cluster://"
    return ""


def _store_url(scheme: StoreScheme, match: re.Match[str]) -> StoreUrl | None:
    """Read what follows the scheme, or return None if it does not fit it."""
    text, path = SecretStr(match[0]), match[4] or ""
    if scheme is StoreScheme.MEMORY:
        return StoreUrl(scheme, text) if match[0] == "memory://" else None
    if scheme is StoreScheme.SQLITE:
        # Seen in practice: four slashes, as other programs want them for an absolute path.
        file = path.removeprefix("/") if path.startswith("//") else path
        is_file = is_path(file) and not file.endswith(("/", "/:memory:"))
        is_only = match[0] == f"sqlite://{path}"
        return StoreUrl(scheme, text, path=file) if is_file and is_only else None
    default_port = 26_379 if scheme.is_sentinel else 6_379
    hosts = [_host(item, default_port) for item in match[3].split(",")]
    found = _store_path(scheme).fullmatch(path)
    is_single = not (scheme.is_sentinel or scheme.is_cluster)
    if not found or not all(port for _, port in hosts) or (is_single and len(hosts) > 1):
        return None
    return StoreUrl(scheme, text, tuple(hosts), found["name"], int(found["database"] or 0))


def _store_path(scheme: StoreScheme) -> re.Pattern[str]:
    if scheme.is_sentinel:
        return re.compile(r"/(?P<name>[A-Za-z0-9._-]+)(?:/(?P<database>[0-9]{1,4})?)?")
    database = "0" if scheme.is_cluster else "[0-9]{1,4}"
    return re.compile(rf"(?P<name>)(?:/(?P<database>{database})?)?")


def _host(text: str, default_port: int) -> tuple[str, int]:
    """Read one host of a URL; port 0 if it is none."""
    host, port = _parse_host_port(text) or ("", 0)
    return host, default_port if port is None else port


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine, as seen from itself; other names are not resolved."""
    address = address_of(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def host_port(host: str, port: int) -> str:
    """Write host and port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _socket_path(path: str) -> str:
    if len(path.encode()) > _MAX_SOCKET_PATH_OCTETS:
        raise ValueError(f"the path of a unix socket has at most {_MAX_SOCKET_PATH_OCTETS} octets")
    return path


def _parse_host_port(text: str) -> tuple[str, int | None] | None:
    """Read ``host``, ``host:port`` or ``[address]:port``; None if it is none of them."""
    match = _HOST_PORT.fullmatch(text)
    if match is None or int(match[3] or 0) > _MAX_PORT:
        return None
    port = int(match[3]) if match[3] else None
    if match[1]:
        is_good = ":" in match[1] and isinstance(_literal(match[1]), IPv6Address)
        return (match[1], port) if is_good else None
    # Names of containers hold underscores, though host names do not.
    is_good = is_host_name(match[2].replace("_", "x")) or isinstance(
        _literal(match[2]), IPv4Address
    )
    return (match[2], port) if is_good else None


def _literal(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except ValueError:
        return None


ENDPOINT = Notation(parse_endpoint, '"host:port" or "unix:/path"')
SERVER = Notation(parse_server, '"smtp://host:port", "lmtp://…" or "maildir:///path"')
STORE_URL = Notation(parse_store_url, "URL; secret")
