"""The lock files hold on every Python that is supported, not only on the one that made them.

pip checks hashes only if *everything* is locked: if one requirement is missing that only another
Python needs, nothing can be installed there. Seen in practice: redis wants async-timeout before
3.11.3, and Debian 12 has 3.11.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).resolve().parents[1]
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==\S+(?: ; (.+?))? \\$", re.MULTILINE)
_PYTHONS = ("3.11.0", "3.11.2", "3.11.7", "3.12.0", "3.13.0")


def _locked(name: str, environment: dict[str, str]) -> set[str]:
    """Return what a lock file installs in an environment."""
    lines = _LOCKED.findall((_ROOT / name).read_text())
    wanted = (Requirement(f"{of};{marker}" if marker else of) for of, marker in lines)
    return {
        canonicalize_name(r.name) for r in wanted if not r.marker or r.marker.evaluate(environment)
    }


def _needed(distribution: str, environment: dict[str, str]) -> Iterator[str]:
    """Return what an installed distribution needs in an environment, extras aside."""
    for text in metadata.requires(distribution) or ():
        requirement = Requirement(text)
        if not requirement.marker or requirement.marker.evaluate(environment | {"extra": ""}):
            yield canonicalize_name(requirement.name)


@pytest.mark.parametrize("python", _PYTHONS)
@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_lock_is_whole_on_every_python(lock: str, python: str) -> None:
    environment: dict[str, str] = {
        **default_environment(),  # type: ignore[dict-item] # a TypedDict of texts
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
    }
    locked = _locked(lock, environment)
    assert "aiosmtpd" in locked
    installed = {canonicalize_name(d.name) for d in metadata.distributions()}
    missing = {
        f"{name} for {distribution}"
        for distribution in locked & installed
        for name in _needed(distribution, environment)
        if name not in locked
    }
    assert not missing


def test_a_lock_is_installed_as_it_stands() -> None:
    """Before pip 23.3, an extra of a dependency is sought at its newest release, past the lock."""
    pages = [
        *(_ROOT / name for name in ("Makefile", ".ci/pythons", "deploy/Dockerfile", "README.md")),
        *(_ROOT / "docs").glob("*.md"),
    ]
    commands = [
        line
        for page in pages
        for line in page.read_text().splitlines()
        if re.search(r"install .*requirements(-dev)?\.lock", line)
    ]
    assert len(commands) >= 6
    assert [line for line in commands if "--no-deps" not in line] == []
