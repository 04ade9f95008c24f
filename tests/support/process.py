"""Processes under test: started in a session of their own, waited for by condition, always ended.

Nothing here knows SMTP. Whatever is started is killed with its whole group at the latest when the
test process ends.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

_POLL_S = 0.005
_TAIL_OCTETS = 6000
# Below the range that the kernel takes the clients' own ports from (32768 up), for each parallel
# test process a range of its own, and each reserved: nobody takes a port between our choosing and
# our use.
_FIRST_PORT, _PORTS_PER_WORKER, _WORKERS = 11_000, 2_600, 8


class StartError(Exception):
    """A process did not come up, or ended; the text holds what it said."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process, leader of its session.

    Attributes:
        process: itself.
        log: file that its output goes to.
    """

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Return the process id, which is its group's too."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Say whether it has not ended yet."""
        return self.process.poll() is None

    def tail(self) -> str:
        """Return the end of what it said."""
        said = self.log.read_bytes() if self.log.exists() else b""
        return said[-_TAIL_OCTETS:].decode("utf-8", "replace")

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, not its children."""
        self.process.send_signal(number)

    def stop(self, limit_s: float = 30.0, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and kill its group if it does not; return its exit status."""
        if self.is_running:
            self.process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(limit_s)
        return self.kill()

    def kill(self) -> int:
        """End it and all that it started, at once; return its exit status."""
        if self.process.pid in _RUNNING:  # once only: afterwards the number may be another's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        status = self.process.wait()
        _RUNNING.pop(self.process.pid, None)
        return status


_RUNNING: dict[int, Child] = {}


@atexit.register
def _kill_all() -> None:
    for child in list(_RUNNING.values()):
        child.kill()


def start(
    args: Sequence[str | Path],
    log: Path,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
) -> Child:
    """Start a program; its output is appended to a file.

    Args:
        args: program and arguments.
        log: for its standard output and error.
        folder: to run in.
        environment: additions to ours.
        descriptors: files that it inherits, besides the first three.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(arg) for arg in args],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            pass_fds=descriptors,
        )
    child = Child(process, log)
    _RUNNING[process.pid] = child
    return child


def wait_until(
    condition: Callable[[], _T], what: str, limit_s: float = 30.0, child: Child | None = None
) -> _T:
    """Wait until a condition holds, and return what it came to.

    It is asked once more after the limit, and after the child's end: what came true while this
    process had no turn is true.

    Args:
        condition: asked again and again until it returns something true.
        what: is waited for, for the message.
        limit_s: until we give up.
        child: whose end is the end of all hope.

    Raises:
        StartError: the process ended.
        TimeoutError: the limit passed.
    """
    end = time.monotonic() + limit_s
    while True:
        is_over = time.monotonic() > end
        has_ended = child is not None and not child.is_running
        if found := condition():
            return found
        if child is not None and has_ended:
            status = child.process.returncode
            raise StartError(f"{what}: it ended with {status} and said:\n{child.tail()}")
        if is_over:
            said = f"; it said:\n{child.tail()}" if child is not None else ""
            raise TimeoutError(f"{what}: not within {limit_s:g} s{said}")
        time.sleep(_POLL_S)


def can_connect(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether somebody listens."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1.0):
        return True
    return False


def _port_numbers() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    ports = range(_PORTS_PER_WORKER)
    first = random.SystemRandom().choice(ports)  # two suites at a time rarely meet
    for number in itertools.count(first):
        yield _FIRST_PORT + worker * _PORTS_PER_WORKER + number % _PORTS_PER_WORKER


_PORTS = _port_numbers()
_RESERVED: list[socket.socket] = []


def free_port() -> int:
    """Return a loopback port that nobody listens on and that nobody else will be given."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            _reserve(port)
            return port
    raise AssertionError("ports never end")


def _reserve(port: int) -> None:
    """Keep a port from every other suite on this machine for as long as this process lives.

    Raises:
        OSError: another one has it.
    """
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind(
            f"\0mailonce-test-port-{port}"
        )  # a name that ends with its socket: no file is left
    except OSError:
        mark.close()
        raise
    _RESERVED.append(mark)


@contextlib.contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """Make a folder that other users may enter, as servers that drop root must, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
