r"""Log lines: what one looks like, and the logger that the whole program uses.

One event is one line: JSON (RFC 8259 section 2, all ASCII), logfmt, or, for a terminal, columns.
Nothing that a client sent can end a line, start an escape sequence or look like a field of ours.

The lines of transactions take a short way (`Log.write_encoded`), everything else goes through
structlog (`Log.logger`); libraries that log by themselves are taken in by `adopt_libraries`. No
method waits or raises.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, MutableMapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

import structlog

from gateway.edge.log_sink import LogSink

Fields = MutableMapping[str, Any]
Render = Callable[[Any, str, Fields], str]

_MAX_TEXT = 2_000
# Printable ASCII without blank, quote, equals sign and backslash: most values of most lines.
_IS_PLAIN = re.compile(rf"[!#-<>-\[\]-~]{{0,{_MAX_TEXT}}}").fullmatch
_IS_SEVERAL = re.compile(r'[ ="]').search
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class Format(StrEnum):
    """``log.format``, once ``auto`` is decided."""

    CONSOLE = "console"
    JSON = "json"
    LOGFMT = "logfmt"


class Log:
    """A level, a form and a place for log lines.

    Attributes:
        logger: structlog's, for events other than transactions: ``log.logger.info("started", …)``.
    """

    def __init__(self, sink: LogSink, form: Format, level: str) -> None:
        """Log what is at least this important.

        Args:
            sink: takes the lines.
            form: of a line.
            level: ``debug``, ``info``, ``warning`` or ``error``.
        """
        self._sink = sink
        self._render = _RENDERERS[form]()
        self._is_json = form is Format.JSON
        self._level = _LEVELS[level]
        self.logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            _Lines(sink),
            processors=[_stamped, structlog.processors.format_exc_info, self._render],
            wrapper_class=structlog.make_filtering_bound_logger(level),
        )

    def write(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        """Write one line, now.

        Args:
            level: of it.
            event: past participle or noun, the same for the same kind of event.
            fields: texts of any length and octets, numbers, booleans, None.
        """
        self.write_encoded(level, event, time.time(), encoded(fields))

    def write_encoded(self, level: str, event: str, at_s: float, fields: str) -> None:
        """Write one line whose fields are JSON already; see `write`.

        Args:
            level: of it.
            event: of it.
            at_s: Unix time.
            fields: a JSON object in ASCII, on one line, not empty.
        """
        if _LEVELS[level] < self._level:
            return
        line = f'{{"time":"{timestamp(at_s)}","level":"{level}","event":"{event}",{fields[1:]}'
        # What JSON does not escape, but a terminal may act upon.
        line = line.replace("\x7f", "\\u007f")
        self._sink.write(line if self._is_json else self._render(None, level, json.loads(line)))

    def adopt_libraries(self) -> None:
        """Take in what libraries log (asyncio, aiosmtpd, aiohttp) from warnings upwards."""
        logging.basicConfig(handlers=[_Adopter(self)], level=logging.WARNING, force=True)

    def close(self) -> None:
        """Write what is left."""
        self._sink.close()


def format_of(name: str, descriptor: int) -> Format:
    """Decide ``log.format = "auto"``: columns on a terminal, JSON elsewhere."""
    if name != "auto":
        return Format(name)
    return Format.CONSOLE if os.isatty(descriptor) else Format.JSON


def timestamp(at_s: float) -> str:
    """Write a Unix time as ``2026-11-23T17:00:00.123Z``."""
    second = int(at_s)
    return f"{_second(second)}.{int((at_s - second) * 1000):03d}Z"


@lru_cache(maxsize=16)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def encoded(fields: Mapping[str, object]) -> str:
    """Return fields as JSON on one line, texts cut to a bounded length."""
    return _encode({name: _bounded(value) for name, value in fields.items()})


_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


def _bounded(value: object) -> object:
    if value is None or isinstance(value, (int, float)):
        return value
    return _cut(str(value))


def _json(_logger: object, _method: str, fields: Fields) -> str:
    return encoded(fields).replace("\x7f", "\\u007f")


def _logfmt(_logger: object, _method: str, fields: Fields) -> str:
    # By hand, because it is made for every message: structlog's takes more than twice as long.
    return " ".join([f"{name}={_word(value)}" for name, value in fields.items()])


def _word(value: object) -> str:
    """Return a value as logfmt has it: in quotes if it could be taken for several."""
    if isinstance(value, str):
        if _IS_PLAIN(value):
            return value
    elif isinstance(value, bool):
        return "true" if value else "false"
    elif isinstance(value, (int, float)):
        return str(value)
    text = _printable(_text(value))
    if _IS_SEVERAL(text):
        text = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'
    return text


def _console() -> Render:
    render = structlog.dev.ConsoleRenderer(
        colors=True, timestamp_key="time", pad_event_to=0, sort_keys=False
    )

    def console(logger: object, method: str, fields: Fields) -> str:
        # Each line for itself and indented: a traceback may quote what a client sent.
        trace = str(fields.pop("exception", "")).splitlines()
        first = str(render(logger, method, _flat(fields)))
        return "\n".join((first, *(f"    {_printable(line)}" for line in trace)))

    return console


_RENDERERS: Mapping[Format, Callable[[], Render]] = {
    Format.JSON: lambda: _json,
    Format.LOGFMT: lambda: _logfmt,
    Format.CONSOLE: _console,
}


def _flat(fields: Mapping[str, object]) -> dict[str, object]:
    """Make every value one printable text or a number."""
    return {
        name: value if isinstance(value, (int, float)) else _printable(_text(value))
        for name, value in fields.items()
    }


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case None:
            return ""
        case dict():
            return " ".join(map(_text, value.values()))
        case list():
            return ", ".join(map(_text, value))
        case _:
            return str(value)


def _printable(text: str) -> str:
    """Write what is no printable ASCII as an escape."""
    text = _cut(text)
    if text.isascii() and text.isprintable():
        return text
    return text.encode("unicode_escape").decode("ascii")


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"


def _stamped(_logger: object, method: str, fields: Fields) -> Fields:
    """Put time and level in front, for structlog."""
    event = fields.pop("event", "")
    return {"time": timestamp(time.time()), "level": method, "event": event, **fields}


class _Lines:
    """What structlog takes for a logger: every method writes a line."""

    def __init__(self, sink: LogSink) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = sink.write


class _Adopter(logging.Handler):
    """Makes events of ours of the standard library's log records."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        fields = {"logger": record.name, "text": record.getMessage()}
        if record.exc_info:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        level = record.levelname.lower()
        self._log.write(level if level in _LEVELS else "warning", "library", fields)
