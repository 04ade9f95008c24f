"""How the values of a configuration are written: durations, sizes, words, networks and names.

Each `parse_…` function takes what TOML, JSON or the environment gave, of whatever type, and returns
a frozen value; where things are (endpoints, servers, URLs) is in `config.place`. None of them reads
a file, resolves a name or knows a key; relations between keys are the business of
`config.relation`. A `Notation` makes such a function the type of a key.

They fail with a ``ValueError`` whose text is meant for a postmaster and stands behind the key, as
in ``expected a size such as "256KiB", got "much"``. Values that can hold a password are never
quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Network, ip_network
from pathlib import Path
from typing import TypeVar

from pydantic import GetCoreSchemaHandler, SecretStr
from pydantic_core import CoreSchema, core_schema

from gateway.core.rule import Network, address_of

_ChoiceT = TypeVar("_ChoiceT", bound=StrEnum)

_UNIT_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?"
)
_UNIT_OCTETS = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "": 1}
_SIZE = re.compile(r"([0-9]{1,18})(|KiB|MiB|GiB)")
_SIZE_MISSPELT = re.compile(r"([0-9]+) ?([KMG])i?B?", re.IGNORECASE)
_WHOLE = re.compile(r"-?[0-9]{1,18}")

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# RFC 1123 section 2.1: the last label is not all digits, or it would be read as an address.
_HOST_NAME = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}")
_MAX_HOST_NAME = 253
_ABSOLUTE = re.compile(r"/[^/].*")
_ADDRESS = re.compile(r"[!#-;=?A-~]+@([^@]+)")
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


def as_is(text: str) -> object:
    """Read a value from the environment that TOML would write in quotes."""
    return text


@dataclass(frozen=True, slots=True)
class Notation:
    """How one key's value is written: the type of the key, as an annotation.

    Attributes:
        parse: one of the functions of this module or of `config.place`, its bounds applied.
        says: what may be written, for the reference.
        read: makes of an environment variable's text what TOML would have given.
    """

    parse: Callable[[object], object]
    says: str
    read: Callable[[str], object] = as_is

    def __get_pydantic_core_schema__(self, _type: object, _: GetCoreSchemaHandler) -> CoreSchema:
        """Have pydantic call `parse` and nothing else."""
        return core_schema.no_info_plain_validator_function(self.parse)


@dataclass(frozen=True, slots=True)
class ListNotation:
    """How a list is written, each item of it in its own `Notation`.

    Attributes:
        example: of a list, as TOML and JSON both write it.
        says: what may be written, for the reference.
    """

    example: str
    says: str

    def parse(self, value: object) -> list[object]:
        """Take a list as it is; its items are parsed one by one."""
        if not isinstance(value, (list, tuple)):
            hint = f"did you mean [{show(value)}]?" if isinstance(value, str) else ""
            hint = (
                "a list of tables has double brackets, as in [[policy]]"
                if isinstance(value, dict)
                else hint
            )
            raise refusal(f"a list such as {self.example}", value, hint)
        return list(value)

    def read(self, text: str) -> object:
        """Read a list from the environment, where it is JSON."""
        try:
            return self.parse(json.loads(text))
        except (ValueError, RecursionError) as error:
            hint = "" if text.strip() else "an empty list is written []"
            raise refusal(f"a JSON list such as {self.example}", text, hint) from error

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Have pydantic call `parse`, and then parse the items."""
        return core_schema.no_info_before_validator_function(self.parse, handler(source))


def duration(least: str, most: str) -> Notation:
    """Return the notation of a duration between two bounds, themselves durations."""
    return _between("duration", parse_duration, least, most)


def size(least: str, most: str) -> Notation:
    """Return the notation of a size between two bounds, themselves sizes."""
    return _between("size", parse_size, least, most)


def count(least: int, most: int) -> Notation:
    """Return the notation of a whole number between two bounds."""
    return _between("whole number", parse_count, least, most, _read_count)


def one_of(*choices: StrEnum) -> Notation:
    """Return the notation of one word out of several."""
    return Notation(lambda value: parse_choice(value, choices), _words(choices))


def parse_duration(value: object) -> float:
    """Read ``"250ms"``, ``"10s"``, ``"1h30m"`` or ``"5d"``; units fall, numbers are whole."""
    if isinstance(value, str) and value and (match := _DURATION.fullmatch(value)):
        milliseconds = sum(
            int(number) * round(unit_s * 1000)
            for number, unit_s in zip(match.groups("0"), _UNIT_S.values(), strict=True)
        )
        return milliseconds / 1000
    is_bare = re.fullmatch(r"[0-9]+(\.[0-9]+)?", str(value)) if _is_scalar(value) else None
    hint = "the unit is missing (ms, s, m, h or d)" if is_bare else ""
    raise refusal('a duration such as "250ms", "10s" or "5d"', value, hint)


def show_duration(duration_s: float) -> str:
    """Write seconds as a configuration does."""
    rest, parts = round(duration_s * 1000), []
    for unit, unit_s in _UNIT_S.items():
        number, rest = divmod(rest, round(unit_s * 1000))
        parts.append(f"{number}{unit}" if number else "")
    return "".join(parts) or "0s"


def parse_size(value: object) -> int:
    """Read ``"256KiB"``, ``"50MiB"``, ``"1GiB"`` or a bare number of octets."""
    text = str(value) if isinstance(value, int) and _is_scalar(value) else value
    if isinstance(text, str) and (match := _SIZE.fullmatch(text)):
        return int(match[1]) * _UNIT_OCTETS[match[2]]
    near = _SIZE_MISSPELT.fullmatch(text) if isinstance(text, str) else None
    meant = f'did you mean "{near[1]}{near[2].upper()}iB"?' if near else ""
    raise refusal('a size such as "256KiB", "50MiB" or "1GiB"', value, meant)


def parse_count(value: object) -> int:
    """Read a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise refusal("a whole number", value)
    return value


def parse_flag(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise refusal("true or false", value)
    return value


def parse_choice(value: object, choices: Iterable[_ChoiceT]) -> _ChoiceT:
    """Read one of several words."""
    choices = tuple(choices)
    for choice in choices:
        if value == choice.value:
            return choice
    raise refusal(_words(choices), value)


def parse_network(value: object) -> Network:
    """Read a network in CIDR notation, or a single address."""
    expected = 'a network such as "10.0.0.0/8", "192.0.2.1" or "::1"'
    text = value if isinstance(value, str) else ""
    if not re.fullmatch(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?", text):
        raise refusal(expected, value)
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise refusal(expected, value) from error
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped:  # such clients are seen with their IPv4 address: this would match nobody
            raise refusal(expected, value, f'did you mean "{mapped}/{network.prefixlen - 96}"?')
    address, slash, _ = text.partition("/")
    if slash and address_of(address) != network.network_address:
        raise refusal(expected, value, f'did you mean "{network}", or "{address}" alone?')
    return network


def parse_host_name(value: object) -> str:
    """Read a host name (RFC 1123 section 2.1), or ``""``."""
    if value == "" or (isinstance(value, str) and is_host_name(value)):
        return str(value)
    raise refusal('a host name such as "mx.example.org", or ""', value)


def is_host_name(text: str) -> bool:
    """Say whether a text is a host name, and not an address."""
    return len(text) <= _MAX_HOST_NAME and _HOST_NAME.fullmatch(text) is not None


def parse_secret(value: object) -> SecretStr:
    """Take a secret as it is."""
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("expected UTF-8 text in quotes")
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
    if not isinstance(value, str) or not is_path(value):
        raise refusal('an absolute path such as "/etc/mailonce/tls.pem", or ""', value)
    return Path(value)


def is_path(text: str) -> bool:
    """Say whether a text is an absolute path that can stand in a log."""
    return _ABSOLUTE.fullmatch(text) is not None and text.isprintable()


def parse_address(value: object) -> str:
    """Read one mail address that can stand in a RCPT command, or ``""``."""
    if value == "":
        return ""
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None or not is_host_name(match[1]):
        raise refusal('an address such as "probe@relay-test.invalid", or ""', value)
    return match[0]


def parse_pattern(value: object) -> str:
    """Read a pattern over whole addresses; ``""`` is the null reverse-path."""
    expected = 'an address pattern such as "*@lists.example.org"'
    if value == "<>":
        raise refusal(expected, value, 'the null reverse-path is ""')
    if not isinstance(value, str) or not value.isprintable() or re.search("[ <>]", value):
        raise refusal(expected, value)
    is_whole = "@" in value[1:] or "*" in value or value.lower() in ("", "postmaster")
    if not is_whole:  # RFC 5321 section 4.5.1: only <postmaster> comes without a domain
        meant = f'did you mean "*@{value.removeprefix("@")}"?'
        raise refusal(expected, value, f"it covers the whole address; {meant}")
    return value


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


def refusal(expected: str, value: object, hint: str = "") -> ValueError:
    """Return the error that says what was expected and what came instead."""
    return ValueError(f"expected {expected}, got {show(value)}" + (f": {hint}" if hint else ""))


def _between(
    kind: str,
    parse: Callable[[object], float],
    least: object,
    most: object,
    read: Callable[[str], object] = as_is,
) -> Notation:
    """Return the notation of a quantity between two bounds, written as the quantity is."""
    smallest, largest = parse(least), parse(most)

    def parse_within(value: object) -> float:
        number = parse(value)
        if number < smallest:
            raise ValueError(f"must be at least {least}, got {show(value)}")
        if number > largest:
            raise ValueError(f"must be at most {most}, got {show(value)}")
        return number

    return Notation(parse_within, f"{kind}, {least} to {most}", read)


def _is_scalar(value: object) -> bool:
    """Say whether a value is a text or a number of moderate size, fit for `str`."""
    is_small = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18
    return is_small or isinstance(value, (str, float))


def _words(choices: Iterable[StrEnum]) -> str:
    words = [f'"{choice}"' for choice in choices]
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _read_flag(text: str) -> object:
    return {"true": True, "false": False}.get(text, text)


def _read_count(text: str) -> object:
    return int(text) if _WHOLE.fullmatch(text) else text


FLAG = Notation(parse_flag, "true or false", _read_flag)
NETWORK = Notation(parse_network, "network")
HOST_NAME = Notation(parse_host_name, 'host name, or ""')
SECRET = Notation(parse_secret, "text; secret")
TOKEN = Notation(parse_token, "visible ASCII characters; secret")
PATH = Notation(parse_path, 'absolute path, or ""')
ADDRESS = Notation(parse_address, 'mail address, or ""')
PATTERN = Notation(parse_pattern, "address pattern")
