"""The manual page: no command and no option more or less than the program has."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from gateway import __version__
from gateway.cli import app
from tests.support.need import need

_PAGE = Path(__file__).parents[2] / "deploy/man/mailonce.1"
_TEXT = _PAGE.read_text().replace("\\-", "-")


def _program() -> TyperGroup:
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    return program


def _section(name: str) -> str:
    return _TEXT.partition(f".SH {name}\n")[2].partition("\n.SH ")[0]


def _entries(section: str) -> list[str]:
    """Return what stands in the margin of a section, without fonts."""
    lines = _section(section).splitlines()
    return [after for before, after in pairwise(lines) if before == ".TP"]


def _names(command: TyperGroup | TyperCommand) -> set[str]:
    """Return its options; each has the one for help."""
    options = (each for each in command.params if isinstance(each, TyperOption))
    return {"--help", "-h"}.union(*(option.opts for option in options))


def _commands() -> dict[str, TyperCommand]:
    found = {}
    for name, command in _program().commands.items():
        assert isinstance(command, TyperCommand)
        found[name] = command
    return found


def test_has_every_command_and_no_other() -> None:
    documented = [line.removeprefix(".B ") for line in _entries("COMMANDS")]
    assert documented == list(_commands())
    synopsis = re.findall(r"^\.B mailonce (\w+)$", _section("SYNOPSIS"), re.MULTILINE)
    assert synopsis == documented


def test_has_every_option_and_no_other() -> None:
    real = _names(_program()).union(*map(_names, _commands().values()))
    documented = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(_entries("OPTIONS"))))
    assert documented == real


@pytest.mark.parametrize("name", list(_commands()))
def test_synopsis_has_the_options_of_each_command(name: str) -> None:
    (synopsis,) = re.findall(
        rf"^\.B mailonce {name}$(.*?)(?:^\.br$|\Z)", _section("SYNOPSIS"), re.MULTILINE | re.DOTALL
    )
    documented = set(re.findall(r"--[a-z-]+", synopsis))
    everywhere = {"--help", "-h", "--version"}
    assert documented == _names(_commands()[name]) - everywhere


def test_is_of_this_version() -> None:
    assert f'"mailonce {__version__}"' in _TEXT


@pytest.mark.tool
def test_man_shows_it_without_a_warning() -> None:
    need("man:man-db")
    done = subprocess.run(
        ["man", "--warnings", "--encoding=UTF-8", "--local-file", str(_PAGE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "mailonce - inbound e-mail deduplication gateway" in done.stdout
