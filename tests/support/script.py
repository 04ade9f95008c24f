r"""Dialogues as written in `tests/dialogues`: text in, steps out. The README there is the grammar.

Fails with `ScriptError` at anything that it does not know, so that a slip of the pen is not a test
that passes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STEP = re.compile(r"(?P<who>[CSNM])(?P<number>[2-9]?)(?P<sign>[:=>!])(?: (?P<text>.*))?")
_REPEAT = re.compile(r"\{([^{}]+)\*(\d+)\}")
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|([rnt0\\]))")
_ESCAPED = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
_SIGNS = {"C": ":=!", "S": ":!", "N": ":>!", "M": ":"}
_VERBS = {
    "C": {"half-close", "close", "reset", "starttls"},
    "S": {"closed", "quiet"},
    "N": {"close", "reset", "silent", "hold", "release", "down", "up", "cut", "lost", "nothing"},
}


class ScriptError(Exception):
    """A dialogue is not well written."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a dialogue.

    Attributes:
        who: ``C`` client, ``S`` we, ``N`` next hop, ``M`` a metric.
        number: of the connection, 1 unless written.
        sign: what stands behind.
        text: the rest, escapes not yet read.
        at: line number in the file.
    """

    who: str
    number: int
    sign: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Script:
    """One dialogue.

    Attributes:
        path: its file.
        settings: of the gateway, by dotted key.
        hop: of the next hop: ``extensions``, ``lmtp``, ``proxy``.
        steps: in order.
    """

    path: Path
    settings: Mapping[str, Any]
    hop: Mapping[str, Any]
    steps: tuple[Step, ...]

    @property
    def stage(self) -> str:
        """Return what dialogues that can share a gateway and a next hop have in common."""
        return repr((sorted(self.settings.items()), sorted(self.hop.items())))


def read_script(path: Path) -> Script:
    """Read a dialogue.

    Raises:
        ScriptError: a line is not understood.
    """
    settings: dict[str, Any] = {}
    hop: dict[str, Any] = {}
    steps: list[Step] = []
    for at, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("= "):
            if steps:
                raise ScriptError(f"{path.name}:{at}: settings come before the first step")
            key, value = _setting(line[2:], f"{path.name}:{at}")
            if key.startswith("hop."):
                hop[key.removeprefix("hop.")] = value
            else:
                settings[key] = value
            continue
        steps.append(_step(line, at, path))
    if not any(step.who == "S" for step in steps):
        raise ScriptError(f"{path.name}: we never answer")
    return Script(path, settings, hop, tuple(steps))


def octets(text: str) -> bytes:
    r"""Return what a text stands for: ``\r \n \t \0 \\ \xHH`` and ``{x*5}``."""

    def plain(match: re.Match[str]) -> str:
        return chr(int(match[1], 16)) if match[1] else _ESCAPED[match[2]]

    repeated = _REPEAT.sub(lambda match: match[1] * int(match[2]), text)
    return _ESCAPE.sub(plain, repeated).encode("latin-1")


def matches(pattern: str, line: bytes) -> bool:
    """Say whether a line is what a text stands for; ``…`` is anything, or nothing."""
    parts = (re.escape(octets(part)) for part in pattern.split("…"))
    return re.fullmatch(b".*".join(parts), line, re.DOTALL) is not None


def _step(line: str, at: int, path: Path) -> Step:
    where = f"{path.name}:{at}"
    match = _STEP.fullmatch(line)
    if match is None:
        raise ScriptError(f"{where}: not a step: {line}")
    who, sign, text = match["who"], match["sign"], match["text"] or ""
    if sign not in _SIGNS[who] or (match["number"] and who not in "CS"):
        raise ScriptError(f"{where}: no such step: {line}")
    if sign == "!" and text not in _VERBS[who]:
        raise ScriptError(f"{where}: {who}! knows {', '.join(sorted(_VERBS[who]))}")
    return Step(who, int(match["number"] or 1), sign, text, at)


def _setting(text: str, where: str) -> tuple[str, Any]:
    key, _, value = text.partition(" = ")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ScriptError(f"{where}: {error}") from error
