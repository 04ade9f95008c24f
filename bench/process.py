"""Processes of the rig: start, count their CPU time and memory, stop; Linux only (/proc).

Whatever is started here ends with the rig: each child is the leader of a session of its own and its
whole group is killed at the end.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STOP_S = 10.0
_PRECEDENCE = "-15"


class StartError(Exception):
    """A process of the rig did not come up; the text says what it said."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process that the rig started.

    Attributes:
        process: itself; leader of its session.
        log: file that its output goes to.
    """

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.process.pid

    def tail(self, octets: int = 2000) -> str:
        """Return the end of what it printed."""
        return self.log.read_bytes()[-octets:].decode("utf-8", "replace")

    def stop(self) -> None:
        """End it and whatever it started."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start(
    args: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a process with its output in a file.

    Raises:
        StartError: the program is not there.
    """
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                [str(arg) for arg in args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise StartError(f"{args[0]} is not installed") from error
    take_precedence(process.pid)
    return Child(process, log)


def take_precedence(pid: int) -> None:
    """Put a session leader's processes before what else the machine does, where we may.

    Linux shares the cores between sessions first, and heeds nice values within a session only.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(_PRECEDENCE)


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], child: Child, limit_s: float = 30.0) -> None:
    """Wait until a condition holds; a child for which it never does is stopped.

    Raises:
        StartError: the child ended, or the time is over.
    """
    end = time.monotonic() + limit_s
    while not condition():
        if child.process.poll() is not None:
            trouble = f"ended with {child.process.returncode}"
        elif time.monotonic() > end:
            trouble = f"not ready after {limit_s:.0f} s"
        else:
            time.sleep(0.02)  # it polls: a process does not tell when it begins to answer
            continue
        child.stop()
        raise StartError(f"{trouble}: {child.tail()}")


def answers(port: int, greeting: bytes = b"220", timeout_s: float = 5.0) -> bool:
    """Tell whether a server on a loopback port greets as expected."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
            if not greeting:
                return True
            connection.settimeout(timeout_s)
            if not connection.recv(512).startswith(greeting):
                return False
            connection.sendall(b"QUIT\r\n")
            return True
    except OSError:
        return False


def raise_file_limit() -> int:
    """Let this process and its children open as many files as the system allows; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far.

    Attributes:
        name: command name.
        cpu_s: user and system time, that of reaped children included.
    """

    name: str
    cpu_s: float


def usage(roots: Sequence[int]) -> dict[int, Usage]:
    """Return the usage of processes and all their descendants."""
    found: dict[int, tuple[int, Usage]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        reaped_s = sum(int(field) for field in fields[13:15]) / _TICKS_PER_S
        found[int(entry.name)] = (int(fields[1]), Usage(name, reaped_s))
    wanted = set(roots) & found.keys()
    grown = True
    while grown:
        members = {pid for pid, (parent, _) in found.items() if parent in wanted} - wanted
        wanted |= members
        grown = bool(members)
    return {pid: Usage(found[pid][1].name, found[pid][1].cpu_s + _own_cpu_s(pid)) for pid in wanted}


def _own_cpu_s(pid: int) -> float:
    """Return the CPU time of a process's threads, in finer steps than the ticks of its status."""
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total_ns += int(task.read_text().split()[0])
    return total_ns / 1e9


def spent(before: Mapping[int, Usage], after: Mapping[int, Usage]) -> dict[str, float]:
    """Return the CPU seconds between two looks, summed by command name."""
    total: dict[str, float] = {}
    for pid, now in after.items():
        then = before.get(pid)
        seconds = now.cpu_s - (then.cpu_s if then else 0.0)
        total[now.name] = total.get(now.name, 0.0) + seconds
    return total


def machine_cpu_s() -> float:
    """Return the CPU seconds that the machine was busy, or that its host kept from it."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def _status_kib(pid: int, key: str) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1])
    return 0


def rss_kib(pid: int) -> int:
    """Return the resident memory of a process."""
    return _status_kib(pid, "VmRSS")


def peak_rss_kib(pid: int) -> int:
    """Return the highest resident memory of a process since `reset_peak_rss`."""
    return _status_kib(pid, "VmHWM")


def reset_peak_rss(pid: int) -> None:
    """Forget the highest resident memory so far."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
