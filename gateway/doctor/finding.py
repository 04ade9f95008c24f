"""What a check of ``mailonce doctor`` has found: values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is; only `FAIL` makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: what was looked at, such as ``"downstream.identity"``; an interface.
        subject: which one of several, such as a server; ``""`` if there is only one.
        level: how bad it is.
        text: what was found, in one line.
        remedy: what to do about it, in one line; ``""`` if it is `OK`.
    """

    check: str
    subject: str
    level: Level
    text: str
    remedy: str = ""


def ok(check: str, subject: str, text: str) -> Finding:
    """Return that all is well."""
    return Finding(check, subject, Level.OK, text)


def warn(check: str, subject: str, text: str, remedy: str) -> Finding:
    """Return that something may be otherwise than meant."""
    return Finding(check, subject, Level.WARN, text, remedy)


def fail(check: str, subject: str, text: str, remedy: str) -> Finding:
    """Return that something does not work, or is not safe."""
    return Finding(check, subject, Level.FAIL, text, remedy)
