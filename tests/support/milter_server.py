"""A milter as a process of its own, on a list and with a policy of the test; nothing around it.

    python -m tests.support.milter_server ADDRESS '{"mode": "drop", "store": "/tmp/x.db"}'

Prints ``ready`` once it listens, and ends with SIGTERM after its connections have.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from gateway.core.edition import EditionSettings
from gateway.core.handover import Client
from gateway.core.report import Keep, Report
from gateway.core.rule import Mode, Policy, Rule
from gateway.core.unique_id import Sealer
from gateway.desk import Desk, RelaySettings
from gateway.edge import tracking_redis
from gateway.edge.tracking_memory import MemoryTrackingList
from gateway.edge.tracking_sqlite import SqliteTrackingList
from gateway.faces.milter import serve_milter
from gateway.faces.milter_message import MilterSettings
from gateway.ports import Downstream, TrackingList
from gateway.screening import Screening, ScreeningSettings
from tests.support.process import Child, start, wait_until

SECRET = b"of the test"
# A busy machine's disk is slow; what it has not answered in time passes unchecked.
_STORE_TIMEOUT_S = 20.0


@dataclass
class _Log:
    """Journal and meter that print."""

    def record(self, report: Report) -> None:
        """Print what became of a message."""
        ends = [f"{o.decision.verdict}/{o.decision.action}" for o in report.outcomes]
        print(report.identity.decode("latin-1"), *ends, flush=True)

    def complain(self, event: str, reason: str) -> None:
        """Print it."""
        print("complaint:", event, reason, flush=True)

    def session_began(self) -> None:
        """Say nothing."""

    def session_ended(self, *, is_tls: bool, result: str) -> None:
        """Say nothing."""

    def protocol_error(self, kind: str) -> None:
        """Print it."""
        print("protocol error:", kind, flush=True)


@dataclass
class _Silent(_Log):
    """Journal and meter that count."""

    reports: list[int] = field(default_factory=lambda: [0])

    def record(self, report: Report) -> None:
        """Count it."""
        self.reports[0] += len(report.outcomes)


def _tracking_list(store: str) -> TrackingList:
    if store.startswith("redis"):
        return tracking_redis.connect(store, _STORE_TIMEOUT_S)
    return SqliteTrackingList(Path(store), _STORE_TIMEOUT_S) if store else MemoryTrackingList()


async def _no_downstream(client: Client) -> Downstream:
    raise AssertionError(f"a milter connects to nobody, {client}")


async def _serve(listener: socket.socket, options: dict[str, Any]) -> None:
    tracking_list = _tracking_list(options.get("store", ""))
    screening = Screening(
        tracking_list,
        Sealer(SECRET),
        ScreeningSettings(
            default=Policy(mode=Mode(options.get("mode", "tag"))),
            rules=tuple(
                Rule(recipients=(pattern,), mode=Mode(mode))
                for pattern, mode in options.get("rules", {}).items()
            ),
            # The list is told a moment after the mail server: the next copy may come before.
            in_flight_wait_s=options.get("in_flight_wait_s", 20.0),
            provisional_s=options.get("provisional_s", 600.0),
        ),
    )
    log = _Silent() if options.get("is_silent") else _Log()
    edition = EditionSettings(hostname="mx.test", id_domain="mx.test")
    desk = Desk(
        _no_downstream,
        screening,
        log,
        RelaySettings(edition, 262_144, hops=100, lease_s=60.0, keep=Keep.DUPLICATES),
    )
    settings = MilterSettings(is_acceptance_assumed=options.get("is_acceptance_assumed", False))
    server = await serve_milter([listener], lambda: desk, log, settings)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()
    await server.close(grace_s=5.0)
    await tracking_list.close()


def _listener(address: str) -> socket.socket:
    if address.startswith("/"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        Path(address).chmod(0o666)
        listener.listen(128)
        return listener
    return socket.create_server(("127.0.0.1", int(address)), backlog=128)


@contextlib.contextmanager
def running_milter(address: int | Path, log: Path, **options: object) -> Iterator[Child]:
    """Run one.

    Args:
        address: port on the loopback, or path of a unix socket.
        log: file of its output.
        options: see `_serve`.
    """
    child = start_milter(address, log, **options)
    try:
        yield child
    finally:
        child.stop()


def start_milter(address: int | Path, log: Path, **options: object) -> Child:
    """Start one and wait until it listens."""
    begun = log.read_bytes().count(b"ready\n") if log.exists() else 0
    command = [sys.executable, "-m", __name__, str(address), json.dumps(options)]
    child = start(command, log, folder=Path(__file__).parents[2])
    wait_until(
        lambda: log.read_bytes().count(b"ready\n") > begun, "the milter listens", child=child
    )
    return child


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(_serve(_listener(sys.argv[1]), json.loads(sys.argv[2])))
