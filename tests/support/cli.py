"""The command line, run as a user does: a process, its output, its exit code."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Told:
    """What a command said.

    Attributes:
        code: it ended with.
        out: standard output.
        err: standard error.
    """

    code: int
    out: str
    err: str


def mailonce(*arguments: str | Path) -> Told:
    """Run a command of mailonce to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *map(str, arguments)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return Told(done.returncode, done.stdout, done.stderr)
