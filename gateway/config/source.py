"""Where the configuration comes from: a TOML file, and environment variables laid over it.

Knows how a key is called in the file and in the environment, and reads both, secrets' files
included; what the values mean is for the model. An unreadable file raises `ConfigError` at once.
Problems with variables are returned, so that they can be told together with all others.

Paths of keys are written as in ``store.url`` and ``policy[0].senders[2]``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.config.key import Key
from gateway.config.type import show
from gateway.errors import ConfigError

PREFIX = "MAILONCE_"
OWN_VARIABLES = frozenset({"MAILONCE_CONFIG"})
"""Variables with our prefix that are no keys: the commands' ``--config``."""

_FILE_SUFFIX = "_FILE"
_MAX_FILE_OCTETS = 1 << 20
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# Seen in practice: Kubernetes tells every pod about every service, as in MAILONCE_SERVICE_HOST and
# MAILONCE_PORT_25_TCP_ADDR, if a service is called mailonce.
_KUBERNETES = re.compile(
    r"MAILONCE(?:_[A-Z0-9]+)*?"
    r"(?:_SERVICE_(?:HOST|PORT(?:_[A-Z0-9]+)*)|_PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)?)"
)

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one key.

    Attributes:
        path: of the key.
        message: what is wrong, and the remedy.
        others: paths of further keys it depends on.
    """

    path: str
    message: str
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the line a postmaster sees."""
        return f"{self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class Overlay:
    """A document with the environment laid over it.

    Attributes:
        document: file and environment together.
        variables: by the path of the key that each has set.
        problems: with variables.
    """

    document: Document
    variables: Mapping[str, str]
    problems: tuple[Problem, ...]


def read_document(path: Path) -> Document:
    """Read a TOML file.

    Raises:
        ConfigError: it cannot be read, or is no TOML; with the line.
    """
    try:
        return _parse_toml(_read_text(path))
    except OSError as error:
        raise ConfigError((f"{path}: cannot be read: {error.strerror or error}",)) from error
    except ValueError as error:
        raise ConfigError((f"{path}: not TOML: {error}",)) from error


def overlaid(
    document: Mapping[str, Any], environ: Mapping[str, str], keys: Iterable[Key]
) -> Overlay:
    """Lay variables over a document.

    Args:
        document: of a file; not changed.
        environ: all variables; those without our prefix do not matter.
        keys: all there are.

    Returns:
        The result. Keys whose variable cannot be read are left as they are in the document.
    """
    known = {variable_of(key.path): key for key in keys}
    merged = {name: dict(v) if isinstance(v, dict) else v for name, v in document.items()}
    variables: dict[str, str] = {}
    problems: list[Problem] = []
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        key = known.get(variable) or known.get(variable.removesuffix(_FILE_SUFFIX))
        is_file = variable not in known
        if key is None or (is_file and not key.is_secret):
            if not _is_foreign(variable):
                problems.append(_unknown(variable, key, known))
            continue
        if is_file and variable_of(key.path) in environ:
            both = f"{variable_of(key.path)} and {variable} are both set; which shall count?"
            problems.append(Problem(key.path, both))
            continue
        try:
            text = environ[variable]
            value = _secret_in(text) if is_file else key.notation.read(text)
        except ValueError as error:
            problems.append(Problem(key.path, from_variable(str(error), variable)))
        else:
            variables[key.path] = variable
            _put(merged, key.path, value)
    return Overlay(merged, variables, tuple(problems))


def from_variable(message: str, variable: str) -> str:
    """Add to a message where the value came from."""
    return f"{message} (from {variable})"


def variable_of(path: str) -> str:
    """Return the name of the variable that sets a key."""
    return PREFIX + path.upper().replace(".", "__")


def path_of(parts: Iterable[str | int]) -> str:
    """Write the path of a key."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += "." * bool(path) + (part if _BARE_KEY.fullmatch(part) else show(part))
    return path


def in_order(problems: Iterable[Problem], document: Mapping[str, Any]) -> list[Problem]:
    """Sort problems as their keys stand in the file; a key that is not there follows its table."""
    places: dict[str, int] = {}
    for place, path in enumerate(_paths(document, "")):
        for holder in _holders(path):
            places[f"{holder}…"] = place
        places[path] = place
    last = len(places)

    def place_of(problem: Problem) -> tuple[int, int]:
        if problem.path in places:
            return places[problem.path], 0
        holders = (f"{holder}…" for holder in _holders(problem.path))
        return next((places[holder] for holder in holders if holder in places), last), 1

    return sorted(problems, key=place_of)


def overlaps(path: str, others: Iterable[str]) -> bool:
    """Say whether a key is one of others, or within one, or holds one."""
    mine = {path, *_holders(path)}
    return any(other in mine or path in _holders(other) for other in others)


def nearest(name: str, choices: Collection[str]) -> str | None:
    """Return what somebody who wrote a name may have meant, or None."""
    found = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.7)
    return found[0] if found else None


def _parse_toml(text: str) -> Document:
    """Read TOML; raises ValueError, whatever is wrong with it."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError as error:
        raise ValueError("too many brackets in one another") from error
    except ValueError as error:  # Python refuses to read it (CVE-2020-10735)
        raise ValueError("a number is too long") from error


def _read_text(path: Path) -> str:
    """Read a text of bounded size; raises OSError, or ValueError if it is none."""
    with path.open("rb") as file:
        octets = file.read(_MAX_FILE_OCTETS + 1)
    if len(octets) > _MAX_FILE_OCTETS:
        raise ValueError("larger than 1MiB")
    try:
        return octets.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ValueError(f"not UTF-8 (at line {line})") from error


def _secret_in(name: str) -> str:
    """Read a secret from a file, without the line end that editors add."""
    if not name:  # a variable that a script did not set; as a path it would be the folder we are in
        raise ValueError("expected the path of a file, got nothing")
    path = Path(name)
    try:
        secret = _read_text(path).removesuffix("\n").removesuffix("\r")
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"the file {show(str(path))} cannot be read: {reason}") from error
    except ValueError as error:
        raise ValueError(f"the file {show(str(path))} holds no secret: {error}") from error
    if not secret:  # an empty secret would quietly be none
        raise ValueError(f"the file {show(str(path))} is empty")
    return secret


def _put(document: Document, path: str, value: object) -> None:
    """Set one key; where its table is none, that is a problem of its own."""
    table, _, name = path.rpartition(".")
    holder = document.setdefault(table, {}) if table else document
    if isinstance(holder, dict):
        holder[name] = value


def _is_foreign(variable: str) -> bool:
    return variable in OWN_VARIABLES or _KUBERNETES.fullmatch(variable) is not None


def _unknown(variable: str, key: Key | None, known: Mapping[str, Key]) -> Problem:
    if key is not None:
        return Problem(variable, f"only a secret can come from a file; set {variable_of(key.path)}")
    of_table = next((name for name in known if name.startswith(f"{variable}__")), None)
    if of_table is not None:
        return Problem(variable, f"that is a table; set its keys one by one, as in {of_table}")
    names = [name.removeprefix(PREFIX).lower() for name in known]
    meant = nearest(variable.removeprefix(PREFIX), names)
    hint = f"; did you mean {PREFIX}{meant.upper()}?" if meant else ""
    return Problem(variable, f"there is no such key{hint}")


def _paths(value: object, path: str) -> Iterator[str]:
    """Yield the path of every key and item, as they stand in the document."""
    if path:
        yield path
    items: Iterable[tuple[str, object]] = ()
    if isinstance(value, Mapping):
        items = ((f"{path}.{path_of([name])}".removeprefix("."), v) for name, v in value.items())
    elif isinstance(value, (list, tuple)):
        items = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    for inner, item in items:
        yield from _paths(item, inner)


def _holders(path: str) -> list[str]:
    """Return the paths of the tables and lists that a key is in, innermost first."""
    ends = [match.start() for match in re.finditer(r'[.\[](?=(?:[^"]*"[^"]*")*[^"]*\Z)', path)]
    return [path[:end] for end in reversed(ends) if end]
