"""Loaded by every Python with this folder in its path: cProfile from SIGUSR2 to the end.

Only `bench.profile` puts it there. Each process writes ``PID.pstats`` into the folder that
``BENCH_PROFILE`` names.
"""

from __future__ import annotations

import atexit
import cProfile
import os
import signal
from pathlib import Path


def _start(folder: Path) -> None:
    profile = cProfile.Profile()

    def write() -> None:
        profile.disable()
        profile.dump_stats(folder / f"{os.getpid()}.pstats")

    atexit.register(write)
    signal.signal(signal.SIGUSR2, lambda *_: profile.enable())


if "BENCH_PROFILE" in os.environ:
    _start(Path(os.environ["BENCH_PROFILE"]))
