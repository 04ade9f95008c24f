"""Where all mail of the rig ends: Postfix's smtp-sink, which counts what it took."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from bench.process import Child, answers, free_port, start, wait_for

_COUNT = re.compile(rb"mesg=(\d+)")
_TAIL_OCTETS = 200
_BACKLOG = "1000"
_MAX_CONNECTIONS = "4000"


@dataclass(frozen=True, slots=True)
class Sink:
    """A running smtp-sink.

    Attributes:
        child: its process.
        port: where it listens on loopback.
    """

    child: Child
    port: int

    def count(self) -> int:
        """Return how many messages it has taken so far."""
        with self.child.log.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(0, size - _TAIL_OCTETS))
            counts = _COUNT.findall(log.read())
        return int(counts[-1]) if counts else 0

    def count_of(self, expected: int, limit_s: float = 3.0) -> int:
        """Wait a moment for the count to reach what is expected; return what it came to."""
        end = time.monotonic() + limit_s
        while self.count() < expected and time.monotonic() < end:
            time.sleep(0.01)  # it polls: smtp-sink tells its count in a log alone
        return self.count()


def start_sink(folder: Path) -> Sink:
    """Start a sink with its count in a folder.

    Raises:
        StartError: it did not come up.
    """
    port = free_port()
    # As root it wants to be somebody else; anybody will do.
    args = ["smtp-sink", "-c", "-u", "postfix", "-m", _MAX_CONNECTIONS]
    child = start([*args, f"127.0.0.1:{port}", _BACKLOG], folder / f"sink-{port}.count")
    wait_for(lambda: answers(port), child)
    return Sink(child, port)
