"""P7, P8: one event is one line, whatever a client put into it."""

import json
import logging
import os
import pty
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.processors import LogfmtRenderer

from gateway.edge.log import Format, Log, encoded, format_of, timestamp
from gateway.edge.log_sink import LogSink

HOSTILE = 'a\r\nlevel=error event=forged\x1b[31m\x7f\x00\x9b\u202e"=\\ end'


class Paper(LogSink):
    """Takes lines and keeps them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)


def _printed(line: str) -> str:
    """Return a line without the colours that are ours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


@pytest.mark.parametrize("form", Format)
def test_nothing_a_client_sent_ends_a_line_or_acts_on_a_terminal(form: Format) -> None:
    paper = Paper()
    log = Log(paper, form, "info")
    log.write("warning", "downstream_lost", {"reason": HOSTILE})
    log.logger.warning("other", reason=HOSTILE)
    assert len(paper.lines) == 2
    for line in paper.lines:
        assert _printed(line).isprintable()
        assert _printed(line).isascii()
        assert "event=forged" not in line.split()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_json_says_what_was_said(text: str) -> None:
    assert json.loads(encoded({"a": text}))["a"] == text


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=100))
def test_logfmt_has_as_many_fields_as_were_given(text: str) -> None:
    paper = Paper()
    Log(paper, Format.LOGFMT, "info").write("info", "said", {"helo": text, "n": 1})
    (line,) = paper.lines
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
    assert re.fullmatch(r"time=\S+ level=info event=said helo=\S* n=1", outside), line


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=100)
    | st.text(alphabet=' "=\\a', max_size=6)
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.none()
)
def test_logfmt_quotes_as_structlog_does(value: object) -> None:
    """Ours is the quicker one, and no other form: whoever reads one can read the other."""
    paper = Paper()
    Log(paper, Format.LOGFMT, "info").write("info", "said", {"a": value})
    theirs = LogfmtRenderer(bool_as_flag=False)(None, "info", {"a": value})
    assert paper.lines[0].partition(" event=said ")[2] == theirs


def test_json_line_has_the_same_first_fields_always() -> None:
    paper = Paper()
    log = Log(paper, Format.JSON, "info")
    log.write("info", "message", {"n": 1, "x": None, "b": True, "f": 0.5, "o": ("a", 2)})
    log.logger.info("started", workers=2)
    first, second = (json.loads(line) for line in paper.lines)
    assert list(first)[:3] == list(second)[:3] == ["time", "level", "event"]
    assert (first["n"], first["x"], first["b"], first["f"]) == (1, None, True, 0.5)
    assert (second["event"], second["workers"]) == ("started", 2)


def test_long_texts_are_cut() -> None:
    assert len(encoded({"a": "x" * 10**6})) < 2_100


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_level_is_a_threshold(level: str) -> None:
    levels = ["debug", "info", "warning", "error"]
    paper = Paper()
    log = Log(paper, Format.JSON, level)
    for each in levels:
        log.write(each, "said", {"n": 1})
        getattr(log.logger, each)("said")
    expected = [each for each in levels[levels.index(level) :] for _ in range(2)]
    assert [json.loads(line)["level"] for line in paper.lines] == expected


def _fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("form", Format)
def test_exception_is_one_line_but_on_a_console(form: Format) -> None:
    paper = Paper()
    log = Log(paper, form, "info")
    try:
        _fail(ValueError(HOSTILE))
    except ValueError:
        log.logger.exception("bug")
    (written,) = paper.lines
    assert "ValueError" in written
    first, *trace = written.split("\n")
    assert bool(trace) == (form is Format.CONSOLE)
    assert all(line.startswith("    ") and line.isprintable() for line in trace)
    assert _printed(first).isprintable()


def test_libraries_log_here() -> None:
    paper = Paper()
    log = Log(paper, Format.JSON, "info")
    root, level = logging.root.handlers[:], logging.root.level
    try:
        log.adopt_libraries()
        logging.getLogger("mail.log").info("not this")
        logging.getLogger("mail.log").warning("said: %s", HOSTILE)
        try:
            _fail(KeyError("x"))
        except KeyError:
            logging.getLogger("asyncio").exception("a task failed")
    finally:
        logging.root.handlers[:], logging.root.level = root, level
    first, second = (json.loads(line) for line in paper.lines)
    assert (first["event"], first["logger"], first["level"]) == ("library", "mail.log", "warning")
    assert first["text"] == f"said: {HOSTILE}"
    assert "KeyError" in second["exception"]


def test_auto_is_console_on_a_terminal_and_json_elsewhere(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    try:
        assert format_of("auto", follower) is Format.CONSOLE
    finally:
        os.close(leader)
        os.close(follower)
    with (tmp_path / "log").open("wb") as file:
        assert format_of("auto", file.fileno()) is Format.JSON
    assert format_of("logfmt", 1) is Format.LOGFMT


@pytest.mark.parametrize(
    ("at_s", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1795523637.25, "2026-11-24T12:33:57.250Z"),
        (1795523637.9999, "2026-11-24T12:33:57.999Z"),
    ],
)
def test_times_are_utc(at_s: float, text: str) -> None:
    assert timestamp(at_s) == text
