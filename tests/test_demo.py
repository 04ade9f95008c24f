"""The demo: it runs, it tells the truth, and it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import smtplib
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from gateway.core.policy import Action, Decision, Verdict
from gateway.demo import place
from gateway.demo.letter import ALICE, Expected, each, letters
from gateway.demo.post import Delivered, Outcome
from tests.support.process import Child, start, wait_until

PROJECT = Path(__file__).parents[1]
LETTERS = list(each(letters("0", "example.org")))
RIGHT = "All of it is as it should be."


def run(folder: Path, *arguments: str | Path) -> tuple[int, str, str]:
    """Run the command, with a folder for what is temporary."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "demo", *arguments],
        capture_output=True,
        check=False,
        cwd=PROJECT,
        # As behind a firewall: what is on this machine must not be looked for elsewhere.
        env={
            **os.environ,
            "TMPDIR": str(folder),
            "http_proxy": "http://127.0.0.1:1",
            "no_proxy": "",
        },
        timeout=150,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def delivered_as_expected(outcome_of: Expected) -> tuple[Delivered, ...]:
    return tuple(Delivered(who, outcome_of.field, True) for who in outcome_of.delivered)


def as_expected(index: int) -> Outcome:
    """Return an outcome that is right."""
    letter = LETTERS[index]
    expected = letter.expected
    return Outcome(letter, expected.code, "Ok", expected.decisions, delivered_as_expected(expected))


def test_once_tells_that_all_is_right_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code, out, error = run(tmp_path, "--once")
    assert (code, error) == (0, ""), out
    assert RIGHT in out
    assert out.count("✓") == len(LETTERS) + 1  # and one for the metrics
    assert "✗" not in out
    assert list(tmp_path.iterdir()) == []


def test_a_folder_keeps_everything_and_serves_again(tmp_path: Path) -> None:
    folder = tmp_path / "some where" / "new"
    for _ in range(2):
        code, out, error = run(tmp_path, "--once", "--dir", folder)
        assert (code, error) == (0, ""), out
        _age(folder / "seen.db")
    names = {path.name for path in folder.iterdir()}
    assert {"demo.toml", "mailonce.log", "seen.db", "Maildir"} <= names
    copies = sum(len(letter.expected.delivered) for letter in LETTERS)
    assert len(list((folder / "Maildir" / "new").iterdir())) == 2 * copies


def _age(database: Path) -> None:
    """Have the journal hold more than anybody looks at."""
    copied = "INSERT INTO journal (message_id, line) SELECT message_id, line FROM journal"
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        for _ in range(7):
            db.execute(copied)
        assert db.execute("SELECT count(*) FROM journal").fetchone() > (1000,)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as child:
        text = wait_until(lambda: shown(child, r"Ctrl-C[\s\S]*one message"), "the table", 90, child)
        port = int(found(r"SMTP +127\.0\.0\.1:(\d+)", text))
        with smtplib.SMTP("127.0.0.1", port) as client:
            assert client.sendmail("a@example.org", ["b@example.org"], "Subject: x\n\nx\n") == {}
        url = found(r"(http://127\S+/metrics)", text)
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - http, loopback
            assert b"mailonce_messages_total" in answer.read()
        assert child.stop(number=number) == 0
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_stopped_before_it_is_through_it_says_so(tmp_path: Path) -> None:
    """Found by Ctrl-C while it was sending: it blamed the gateway for not answering.

    Its worker begins only when the signal is on its way, so that it cannot be through before.
    """
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nif 'gateway.worker' in sys.orig_argv:\n    open({str(gate)!r}).read()\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    with running(tmp_path, environment) as child:
        held = wait_until(lambda: opened(gate), "the worker begins", 60, child)
        child.send_signal(signal.SIGINT)
        os.close(held)
        assert child.stop(60.0, number=signal.SIGINT) == 1
        text = child.log.read_text()
    assert "Stopped before everything was sent." in text
    assert "did not answer" not in text
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def opened(gate: Path) -> int:
    """Return a descriptor of a pipe that somebody waits at, 0 if nobody does."""
    with contextlib.suppress(OSError):
        return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    return 0


def test_two_at_a_time_have_ports_of_their_own(tmp_path: Path) -> None:
    """A port that had only been found free was taken by another demo before it was used."""
    with place.listening() as one, place.listening() as other:
        places = [place.place_in(tmp_path, opened) for opened in (one, other)]
    assert len({port for each in places for port in (each.smtp_port, each.http_port)}) == 4


def test_ports_that_are_taken_are_no_problem(tmp_path: Path) -> None:
    with listening(2525), listening(9125):
        code, out, _ = run(tmp_path, "--once")
    assert code == 0, out


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    code, out, error = run(tmp_path, "--once", "--dir", file / "below")
    assert (code, out) == (2, "")
    assert error == f"{file}/below: cannot be made: Not a directory\n"


@pytest.mark.parametrize("index", range(len(LETTERS)), ids=[letter.title for letter in LETTERS])
def test_whatever_is_otherwise_is_noticed(index: int) -> None:
    right = as_expected(index)
    assert right.is_as_expected
    other = Decision(Verdict.UNCHECKED, Action.RELAYED)
    stray = Delivered("mallory@example.org", right.letter.expected.field, True)
    wrong = [
        replace(right, code=right.code + 1),
        replace(right, decisions=((ALICE, other),)),
        replace(right, decisions=()),
        replace(right, delivered=(*right.delivered, stray)),
    ]
    if right.delivered:
        first, *others = right.delivered
        wrong += [
            replace(right, delivered=tuple(others)),
            replace(right, delivered=(replace(first, is_intact=False), *others)),
            replace(right, delivered=(replace(first, field="X-Mailonce: unchecked"), *others)),
        ]
    for outcome in wrong:
        assert not outcome.is_as_expected, outcome


@contextmanager
def running(folder: Path, more: Mapping[str, str] = MappingProxyType({})) -> Iterator[Child]:
    arguments = [sys.executable, "-m", "gateway", "demo"]
    environment = {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", **more}
    child = start(arguments, folder / "output", folder=PROJECT, environment=environment)
    try:
        yield child
    finally:
        child.stop()


@contextmanager
def listening(port: int) -> Iterator[None]:
    """Take a port, unless somebody has it already."""
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError:
        yield
        return
    with listener:
        yield


def shown(child: Child, pattern: str) -> str:
    text = child.log.read_text()
    return text if re.search(pattern, text) else ""


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, text
    return match[1]
