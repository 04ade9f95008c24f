"""File and environment: how they are read and laid over each other."""

from pathlib import Path
from typing import Any

import pytest

from gateway.config import source
from gateway.config.key import Key, keys_of, tables
from gateway.config.source import Problem

KEYS: list[Key] = [key for table in tables() if table != "policy" for key in keys_of(table)]


@pytest.mark.parametrize(
    ("path", "variable"),
    [
        ("workers", "MAILONCE_WORKERS"),
        ("store.url", "MAILONCE_STORE__URL"),
        ("message_id.add_missing", "MAILONCE_MESSAGE_ID__ADD_MISSING"),
    ],
)
def test_names_of_variables(path: str, variable: str) -> None:
    assert source.variable_of(path) == variable


@pytest.mark.parametrize(
    "variable",
    [
        "MAILONCE_CONFIG",
        "MAILONCE_SERVICE_HOST",
        "MAILONCE_SERVICE_PORT",
        "MAILONCE_SERVICE_PORT_SMTP",
        "MAILONCE_PORT",
        "MAILONCE_PORT_25_TCP",
        "MAILONCE_PORT_25_TCP_PROTO",
        "MAILONCE_REDIS_SERVICE_HOST",
        "MAILONCE_REDIS_PORT_6379_TCP_ADDR",
        "mailonce_workers",
        "XMAILONCE_WORKERS",
        "HOME",
    ],
)
def test_variables_that_are_none_of_our_keys(variable: str) -> None:
    overlay = source.overlaid({}, {variable: "x"}, KEYS)
    assert (overlay.document, overlay.problems) == ({}, ())


@pytest.mark.parametrize(
    "variable", ["MAILONCE_", "MAILONCE_LISTEN__PORT", "MAILONCE_SERVICE__HOST", "MAILONCE_STORE__"]
)
def test_variables_that_only_look_foreign_are_problems(variable: str) -> None:
    (problem,) = source.overlaid({}, {variable: "x"}, KEYS).problems
    assert problem.path == variable


@pytest.mark.parametrize("path", [key.path for key in KEYS if key.is_secret])
@pytest.mark.parametrize("line_end", ["", "\n", "\r\n"])
def test_secrets_come_from_files(tmp_path: Path, path: str, line_end: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(f"redis://:pass@db{line_end}".encode())
    overlay = source.overlaid({}, {f"{source.variable_of(path)}_FILE": str(file)}, KEYS)
    table, _, name = path.partition(".")
    assert overlay.document == {table: {name: "redis://:pass@db"}}
    assert overlay.variables == {path: f"{source.variable_of(path)}_FILE"}


def test_only_one_line_end_goes(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b" a\nb \n\n")
    overlay = source.overlaid({}, {"MAILONCE_STORE__SECRET_FILE": str(file)}, KEYS)
    assert overlay.document == {"store": {"secret": " a\nb \n"}}


def test_a_secret_that_is_no_text_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"a\n\xff")
    (problem,) = source.overlaid({}, {"MAILONCE_STORE__SECRET_FILE": str(file)}, KEYS).problems
    assert str(problem) == (
        f'store.secret: the file "{file}" holds no secret: not UTF-8 (at line 2) '
        "(from MAILONCE_STORE__SECRET_FILE)"
    )


def test_the_secret_keys_are_those_that_are_promised() -> None:
    secrets = {key.path for key in KEYS if key.is_secret}
    assert secrets == {"store.url", "store.secret", "listen.http_token"}


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        (("store", "url"), "store.url"),
        (("policy", 0, "senders", 2), "policy[0].senders[2]"),
        (("a.b", ""), '"a.b".""'),
        (("a\n",), '"a\\n"'),
    ],
)
def test_paths(parts: tuple[str | int, ...], path: str) -> None:
    assert source.path_of(parts) == path


@pytest.mark.parametrize(
    ("path", "other", "expected"),
    [
        ("store.url", "store.url", True),
        ("store", "store.url", True),
        ("store.url", "store", True),
        ("policy[0].senders", "policy[0]", True),
        ("policy", "policy[0].senders[1]", True),
        ("policy[0]", "policy[1]", False),
        ("policy[1]", "policy[10]", False),
        ("store.url", "store.urls", False),
        ("tls", "tls_x", False),
    ],
)
def test_overlaps(path: str, other: str, *, expected: bool) -> None:
    assert source.overlaps(path, [other]) is expected
    assert source.overlaps(other, [path]) is expected
    assert source.overlaps(path, []) is False


def test_a_key_that_is_not_there_follows_its_table() -> None:
    document: dict[str, Any] = {"tls": {"key": "x"}, "listen": {"smtp": ["a", "b"], "http": ""}}
    paths = ["MAILONCE_X", "listen.milter", "listen.http", "listen.smtp[1]", "tls.required", "tls"]
    ordered = source.in_order([Problem(path, "") for path in paths], document)
    assert [problem.path for problem in ordered] == [
        "tls",
        "tls.required",
        "listen.smtp[1]",
        "listen.http",
        "listen.milter",
        "MAILONCE_X",
    ]


def test_nearest() -> None:
    assert source.nearest("Windows", ["window", "lease"]) == "window"
    assert source.nearest("colour", ["window", "lease"]) is None
