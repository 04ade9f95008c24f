"""Nothing that the rig starts outlives it, whether it came up or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.process import StartError, spent, start, usage, wait_for

_PARENT = (
    "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(99)'])"
)


def test_a_child_that_does_not_come_up_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    child = start([sys.executable, "-c", _PARENT], tmp_path / "log")
    end = time.monotonic() + 60
    while len(usage([child.pid])) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    family = list(usage([child.pid]))
    with pytest.raises(StartError, match="not ready"):
        wait_for(lambda: False, child, limit_s=0.05)
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(StartError, match="not installed"):
        start(["no-such-program"], Path(os.devnull))


def test_cpu_time_is_counted(tmp_path: Path) -> None:
    child = start([sys.executable, "-c", "while True: pass"], tmp_path / "log")
    try:
        before = usage([child.pid])
        end = time.monotonic() + 60
        while sum(spent(before, usage([child.pid])).values()) < 0.1:
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        child.stop()


def test_a_terminated_run_leaves_nothing() -> None:
    program = (
        "import sys, time; from bench.rig import Rig\n"
        "with Rig() as rig: print(rig.redis.child.pid, flush=True); time.sleep(99)"
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    redis = int(run.stdout.readline())
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert not Path(f"/proc/{redis}").exists()
