"""The values a configuration is written in: durations, sizes, endpoints, servers, URLs and names.

Each `parse_…` function takes what TOML, JSON or the environment gave, of whatever type, and returns a
frozen value. None of them reads a file, resolves a name or knows a key; relations between keys are
the business of `config`.

They fail with a ``ValueError`` whose text is meant for a postmaster and stands behind the key, as in
``expected a size such as "256KiB", got "much"``. Values that can hold a password are never quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import NoReturn, TypeVar

from pydantic import SecretStr

from gateway.core.rule import Network, address_of

_ChoiceT = TypeVar("_ChoiceT", bound=StrEnum)

_UNIT_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?"
)
_UNIT_OCTETS = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "": 1}
_SIZE = re.compile(r"([0-9]{1,18})(|KiB|MiB|GiB)")
_SIZE_MISSPELT = re.compile(r"([0-9]+) ?([KMG])i?B?", re.IGNORECASE)

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# RFC 1123 section 2.1: the last label is not all digits, or it would be read as an address.
_HOST_NAME = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}")
_MAX_HOST_NAME = 253
_HOST_PORT = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?")
_MAX_PORT = 65_535
_ABSOLUTE = re.compile(r"/[^/].*")
_MAX_SOCKET_PATH_OCTETS = 107  # sockaddr_un.sun_path of Linux, less the final NUL
_ADDRESS = re.compile(r"[!#-;=?A-~]+@([^@]+)")
_STORE_URL = re.compile(r"([a-z][a-z0-9+]*)://(?:([^/?#]*)@)?([^/?#@]*)(/[^?#]*)?(\?[^#]*)?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20})://")
_MAX_SHOWN = 80


class Tls(StrEnum):
    """``downstream.tls``."""

    NEVER = "never"
    OPPORTUNISTIC = "opportunistic"
    REQUIRED = "required"


class OnFailure(StrEnum):
    """``store.on_failure``: what becomes of mail while the tracking list is unavailable."""

    DELIVER = "deliver"
    TEMPFAIL = "tempfail"


class ListCopies(StrEnum):
    """``dedup.list_copies``: whether a mailing-list copy is another message than the direct one."""

    DISTINCT = "distinct"
    SAME = "same"


class Keep(StrEnum):
    """``journal.keep``."""

    OFF = "off"
    DUPLICATES = "duplicates"
    ALL = "all"


class LogFormat(StrEnum):
    """``log.format``; ``auto`` is ``console`` on a terminal."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"
    LOGFMT = "logfmt"


class LogLevel(StrEnum):
    """``log.level``."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


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


_DEFAULT_PORT = {Scheme.SMTP: 25, Scheme.LMTP: 24}
_URL_SHAPES = {
    StoreScheme.SQLITE: '"sqlite:///path/to/file.db", with three slashes',
    StoreScheme.MEMORY: '"memory://" and nothing else',
    StoreScheme.REDIS: '"redis://host:6379/0"',
    StoreScheme.REDISS: '"rediss://host:6379/0"',
    StoreScheme.SENTINEL: '"redis+sentinel://host1,host2/name/0"',
    StoreScheme.CLUSTER: '"redis+cluster://host1,host2"',
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


def parse_duration(value: object, least_s: float, most_s: float) -> float:
    """Read ``"250ms"``, ``"10s"``, ``"1h30m"`` or ``"5d"``; units fall, numbers are whole."""
    expected = 'a duration such as "250ms", "10s" or "5d"'
    if isinstance(value, str) and value and (match := _DURATION.fullmatch(value)):
        milliseconds = sum(
            int(number) * round(unit_s * 1000)
            for number, unit_s in zip(match.groups("0"), _UNIT_S.values(), strict=True)
        )
        if milliseconds < least_s * 1000:
            raise ValueError(f"must be at least {show_duration(least_s)}, got {show(value)}")
        if milliseconds > most_s * 1000:
            raise ValueError(f"must be at most {show_duration(most_s)}, got {show(value)}")
        return milliseconds / 1000
    is_bare = re.fullmatch(r"[0-9]+(\.[0-9]+)?", str(value)) if _is_scalar(value) else None
    _refuse(expected, value, "the unit is missing (ms, s, m, h or d)" if is_bare else "")


def show_duration(duration_s: float) -> str:
    """Write seconds as a configuration does."""
    rest, parts = round(duration_s * 1000), []
    for unit, unit_s in _UNIT_S.items():
        number, rest = divmod(rest, round(unit_s * 1000))
        parts.append(f"{number}{unit}" if number else "")
    return "".join(parts) or "0s"


def parse_size(value: object, least: int, most: int) -> int:
    """Read ``"256KiB"``, ``"50MiB"``, ``"1GiB"`` or a bare number of octets."""
    text = str(value) if isinstance(value, int) and _is_scalar(value) else value
    if isinstance(text, str) and (match := _SIZE.fullmatch(text)):
        octets = int(match[1]) * _UNIT_OCTETS[match[2]]
        if octets < least:
            raise ValueError(f"must be at least {_show_size(least)}, got {show(value)}")
        if octets > most:
            raise ValueError(f"must be at most {_show_size(most)}, got {show(value)}")
        return octets
    near = _SIZE_MISSPELT.fullmatch(text) if isinstance(text, str) else None
    meant = f'did you mean "{near[1]}{near[2].upper()}iB"?' if near else ""
    _refuse('a size such as "256KiB", "50MiB" or "1GiB"', value, meant)


def parse_count(value: object, least: int, most: int) -> int:
    """Read a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse("a whole number", value)
    if value < least:
        raise ValueError(f"must be at least {least}, got {show(value)}")
    if value > most:
        raise ValueError(f"must be at most {most}, got {show(value)}")
    return value


def parse_flag(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        _refuse("true or false", value)
    return value


def parse_choice(value: object, choices: Iterable[_ChoiceT]) -> _ChoiceT:
    """Read one of several words."""
    choices = tuple(choices)
    for choice in choices:
        if value == choice.value:
            return choice
    words = [f'"{choice}"' for choice in choices]
    _refuse(f"{', '.join(words[:-1])} or {words[-1]}", value)


def parse_list(value: object, example: str) -> list[object]:
    """Take a list as it is; its items are parsed one by one."""
    if not isinstance(value, (list, tuple)):
        meant = f"did you mean [{show(value)}]?" if isinstance(value, str) else ""
        _refuse(f'a list such as ["{example}"]', value, meant)
    return list(value)


def parse_network(value: object) -> Network:
    """Read a network in CIDR notation, or a single address."""
    expected = 'a network such as "10.0.0.0/8", "192.0.2.1" or "::1"'
    text = value if isinstance(value, str) else ""
    if not re.fullmatch(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?", text):
        _refuse(expected, value)
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        _refuse(expected, value)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped:  # such clients are seen with their IPv4 address: this would match nobody
            _refuse(expected, value, f'did you mean "{mapped}/{network.prefixlen - 96}"?')
    address, slash, _ = text.partition("/")
    if slash and address_of(address) != network.network_address:
        _refuse(expected, value, f'did you mean "{network}", or "{address}" alone?')
    return network


def parse_host_name(value: object) -> str:
    """Read a host name (RFC 1123 section 2.1), or ``""``."""
    if value == "" or (isinstance(value, str) and is_host_name(value)):
        return str(value)
    _refuse('a host name such as "mx.example.org", or ""', value)


def is_host_name(text: str) -> bool:
    """Say whether a text is a host name, and not an address."""
    return len(text) <= _MAX_HOST_NAME and _HOST_NAME.fullmatch(text) is not None


def parse_endpoint(value: object) -> Endpoint:
    """Read ``"host:port"``, ``"[::]:25"`` or ``"unix:/path"``."""
    text = value if isinstance(value, str) else ""
    if text.startswith("unix:") and _is_path(text[5:]):
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
    _refuse('"host:port", "[::]:25" or "unix:/path"', value, meant)


def parse_server(value: object) -> Server:
    """Read ``smtp://`` or ``lmtp://`` with host and port or socket path, or ``maildir:///path``."""
    expected = '"smtp://host:port", "lmtp:///path/to/socket" or "maildir:///path"'
    name, separator, rest = value.partition("://") if isinstance(value, str) else ("", "", "")
    if not separator or name not in Scheme.__members__.values():
        is_bare = isinstance(value, str) and not separator and _parse_host_port(value) is not None
        _refuse(expected, value, f'did you mean "smtp://{value}"?' if is_bare else "")
    scheme = Scheme(name)
    if scheme is Scheme.MAILDIR:
        if not _is_path(rest):
            _refuse(expected, value, "a Maildir has an absolute path, and so three slashes")
        return Server(scheme, path=rest)
    if _is_path(rest):
        return Server(scheme, path=_socket_path(rest))
    host, port = _parse_host_port(rest) or ("", None)
    if not host or port == 0:
        _refuse(expected, value)
    if host in ("0.0.0.0", "::"):  # noqa: S104 - refused, not bound
        _refuse(expected, value, "that is an address to listen on, not one to connect to")
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
    match = _STORE_URL.fullmatch(text)
    url = _store_url(scheme, match) if match else None
    if url is None:
        odd = "; in a password write / as %2F, ? as %3F, # as %23 and @ as %40" * bool(
            scheme.startswith("redis") and "@" in text
        )
        raise ValueError(f"expected {_URL_SHAPES[scheme]}{odd}")
    return url


def _store_url(scheme: StoreScheme, match: re.Match[str]) -> StoreUrl | None:
    """Read what follows the scheme, or return None if it does not fit it."""
    text, path = SecretStr(match[0]), match[4] or ""
    if scheme is StoreScheme.MEMORY:
        return StoreUrl(scheme, text) if match[0] == "memory://" else None
    if scheme is StoreScheme.SQLITE:
        is_file = _is_path(path) and not path.endswith(("/", "/:memory:"))
        is_only = match[0] == f"sqlite://{path}"
        return StoreUrl(scheme, text, path=path) if is_file and is_only else None
    default_port = 26_379 if scheme is StoreScheme.SENTINEL else 6_379
    hosts = []
    for item in match[3].split(","):
        host, port = _parse_host_port(item) or ("", None)
        hosts.append((host, default_port if port is None else port))
    grammar = {
        StoreScheme.SENTINEL: r"/(?P<name>[A-Za-z0-9._-]+)(?:/(?P<database>[0-9]{1,4})?)?",
        StoreScheme.CLUSTER: r"(?P<name>)(?:/(?P<database>0)?)?",
    }.get(scheme, r"(?P<name>)(?:/(?P<database>[0-9]{1,4})?)?")
    found = re.fullmatch(grammar, path)
    is_single = scheme in (StoreScheme.REDIS, StoreScheme.REDISS)
    if not found or not all(host and port for host, port in hosts) or len(hosts) > 1 and is_single:
        return None
    return StoreUrl(scheme, text, tuple(hosts), found["name"], int(found["database"] or 0))


def parse_secret(value: object) -> SecretStr:
    """Take a secret as it is."""
    if not isinstance(value, str):
        raise ValueError("expected text in quotes")
    return SecretStr(value)


def parse_token(value: object) -> SecretStr:
    """Read a bearer token: it must fit into an HTTP header."""
    token = parse_secret(value)
    if not re.fullmatch(r"[!-~]*", token.get_secret_value()):
        raise ValueError("expected visible ASCII characters without blanks")
    return token


def parse_path(value: object) -> Path | None:
    """Read an absolute path; ``""`` is None."""
    if value == "":
        return None
    if not isinstance(value, str) or not _is_path(value):
        _refuse('an absolute path such as "/etc/mailonce/tls.pem", or ""', value)
    return Path(value)


def parse_address(value: object) -> str:
    """Read one mail address that can stand in a RCPT command, or ``""``."""
    if value == "":
        return ""
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None or not is_host_name(match[1]):
        _refuse('an address such as "probe@relay-test.invalid", or ""', value)
    return match[0]


def parse_pattern(value: object) -> str:
    """Read a pattern over whole addresses; ``""`` is the null reverse-path."""
    expected = 'an address pattern such as "*@lists.example.org"'
    if value == "<>":
        _refuse(expected, value, 'the null reverse-path is ""')
    if not isinstance(value, str) or not value.isprintable() or re.search("[ <>]", value):
        _refuse(expected, value)
    is_whole = "@" in value[1:] or "*" in value or value.lower() in ("", "postmaster")
    if not is_whole:  # RFC 5321 section 4.5.1: only <postmaster> comes without a domain
        meant = f'did you mean "*@{value.removeprefix("@")}"?'
        _refuse(expected, value, f"it covers the whole address; {meant}")
    return value


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine, as seen from itself; other names are not resolved."""
    address = address_of(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def host_port(host: str, port: int) -> str:
    """Write host and port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def show(value: object) -> str:
    """Write a value as TOML does, on one line and not too long."""
    if isinstance(value, str):
        text = value if len(value) <= _MAX_SHOWN else value[:_MAX_SHOWN] + "…"
        return json.dumps(text, ensure_ascii=not text.isprintable())
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 else "a huge number"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    return "nothing" if value is None else str(value)


def _refuse(expected: str, value: object, hint: str = "") -> NoReturn:
    raise ValueError(f"expected {expected}, got {show(value)}" + (f": {hint}" if hint else ""))


def _is_scalar(value: object) -> bool:
    """Say whether a value is a text or a number of moderate size, fit for `str`."""
    is_small = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18
    return is_small or isinstance(value, (str, float))


def _show_size(octets: int) -> str:
    unit = next(name for name, factor in _UNIT_OCTETS.items() if octets % factor == 0)
    return f"{octets // _UNIT_OCTETS[unit]}{unit}"


def _is_path(text: str) -> bool:
    return _ABSOLUTE.fullmatch(text) is not None and text.isprintable()


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
    is_good = is_host_name(match[2].replace("_", "x")) or isinstance(_literal(match[2]), IPv4Address)
    return (match[2], port) if is_good else None


def _literal(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except ValueError:
        return None
