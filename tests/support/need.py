"""What a test needs from the system, and what becomes of it where that is missing.

On somebody's own machine the test is skipped and says what to install. Where CI is set, nothing may
be missing: a suite that passes because it ran nothing proves nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/lib/dovecot"))


def need(*programs: str, root: bool = False) -> None:
    """Skip the running test unless programs are installed.

    Args:
        programs: as for a shell; the name of a Debian package may stand behind a colon.
        root: whether only root can run it.
    """
    for name in programs:
        program, _, package = name.partition(":")
        if shutil.which(program, path=_PATH) is None:
            miss(f"{program} is missing: apt-get install {package or program}")
    if root and os.geteuid() != 0:
        miss(f"only root can start {programs[0].partition(':')[0]}")


def program(name: str) -> Path:
    """Return where a program is that `need` has found."""
    found = shutil.which(name, path=_PATH)
    assert found is not None, f"{name} is not installed"
    return Path(found)


def miss(reason: str) -> None:
    """Skip the running test, or fail it where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
