"""Wheel and sdist: built as pip builds them, installed elsewhere, whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway import __version__
from tests.support.process import temporary_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("package")]

_ROOT = Path(__file__).parents[2]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())
_BUILD = """
from setuptools import build_meta
build_meta.build_sdist("dist")
build_meta.build_wheel("dist")
"""


@dataclass(frozen=True, slots=True)
class Built:
    """What was built.

    Attributes:
        folder: of wheel and sdist.
        environment: a fresh one in which the wheel is installed.
    """

    folder: Path
    environment: Path

    @property
    def wheel(self) -> Path:
        return self.folder / f"mailonce-{__version__}-py3-none-any.whl"

    @property
    def sdist(self) -> Path:
        return self.folder / f"mailonce-{__version__}.tar.gz"

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, away from the project."""
        return subprocess.run(
            [str(self.environment / "bin" / command[0]), *map(str, command[1:])],
            cwd=self.environment,
            env={"PATH": os.defpath, "HOME": str(self.environment)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def _run(*command: str | Path, folder: Path, **environment: str) -> None:
    subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        timeout=180,
    )


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    """Build from a copy of what git knows: nothing stray gets in, nothing stays behind."""
    with temporary_folder("package") as folder:
        source, tools = folder / "source", folder / "tools"
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=_ROOT, check=True, capture_output=True, timeout=20
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (_ROOT / name).exists() and not name.startswith(("tests/", "bench/")):
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(_ROOT / name, source / name)
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
        wanted = _PROJECT["build-system"]["requires"]
        _run(*pip, "install", "--target", tools, *wanted, folder=folder)
        _run(sys.executable, "-c", _BUILD, folder=source, PYTHONPATH=str(tools))
        environment = folder / "environment"
        venv.create(environment, symlinks=True)
        made = Built(source / "dist", environment)
        # What it imports is that of this environment, which was installed from the lock.
        libraries = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
        python = environment / "bin/python"
        _run(
            *pip,
            "--python",
            python,
            "install",
            "--no-deps",
            "--no-index",
            made.wheel,
            folder=folder,
        )
        (libraries / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        yield made


def test_the_wheel_has_all_that_the_package_has(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    source = built.folder.parent / "gateway"
    expected = {
        f"gateway/{path.relative_to(source)}"
        for path in source.rglob("*")
        if path.suffix in {".py", ".css", ".js"} or path.name == "py.typed"
    }
    assert expected <= names
    assert "gateway/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "bench/", "docs/"))]


def test_the_sdist_can_be_built_from(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = ("pyproject.toml", "README.md", "LICENSE", "gateway/cli.py", "gateway/py.typed")
    assert set(needed) <= names
    listed = _PROJECT["tool"]["setuptools"]["data-files"]
    patterns = [pattern for files in listed.values() for pattern in files]
    files = {str(f.relative_to(_ROOT)) for pattern in patterns for f in _ROOT.glob(pattern)}
    assert len(files) >= 5
    assert files <= names


def test_installed_it_runs(built: Built) -> None:
    """Command, version, manual page, units and completion are where pipx and people look."""
    told = built.run("mailonce", "--version")
    assert (told.stdout, told.stderr) == (f"mailonce {__version__}\n", "")
    assert (built.environment / "share/man/man1/mailonce.1").exists()
    assert (built.environment / "share/mailonce/systemd/mailonce.service").exists()
    example = built.environment / "share/mailonce/config.example.toml"
    assert built.run("mailonce", "check", "--config", example).returncode == 0
    told = built.run("python", "-c", "import gateway; print(gateway.__file__)")
    assert str(built.environment) in told.stdout, "not the checkout"


def test_installed_it_delivers(built: Built) -> None:
    told = built.run("mailonce", "demo", "--once", "--dir", built.environment / "demo")
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_had(built: Built, shell: str) -> None:
    """Typer asks the shell that runs it; this is what the shell would be told."""
    told = subprocess.run(
        [built.environment / "bin/mailonce"],
        env={"PATH": os.defpath, "_MAILONCE_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "_MAILONCE_COMPLETE" in told.stdout
