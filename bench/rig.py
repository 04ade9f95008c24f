"""The rig: Redis, peers with their sinks, and the measuring of one round."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench import process
from bench.load import Load, Sent, send
from bench.peers import Peer, Running, Site
from bench.process import Child, StartError
from bench.sink import Sink, start_sink

CACHE = Path(__file__).resolve().parent.parent / ".bench"
_US = 1e6
_MIB = 2**20
_KIB_PER_MIB = 1024
_SETTLE_S = 0.05


class RoundError(Exception):
    """A round that does not count: something was refused or not delivered."""


@dataclass(frozen=True, slots=True)
class Redis:
    """A Redis of the rig."""

    child: Child
    port: int

    def ask(self, *words: str) -> str:
        """Return the answer to a command."""
        args = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(args, capture_output=True, text=True, check=True).stdout

    def used_octets(self) -> int:
        """Return what its data takes."""
        lines = self.ask("info", "memory").splitlines()
        (line,) = (line for line in lines if line.startswith("used_memory:"))
        return int(line.partition(":")[2])


@dataclass(frozen=True, slots=True)
class Station:
    """A peer that runs, with the sink behind it."""

    peer: Peer
    running: Running
    sink: Sink
    redis: Redis

    def pids(self) -> list[int]:
        """Return the roots of the peer's process trees."""
        return [self.running.child.pid] if self.running.child else []


class Rig:
    """Everything that runs while we measure; a context manager that ends it all."""

    def __init__(self) -> None:
        """Prepare; nothing is started yet."""
        self._folder = Path(tempfile.mkdtemp(prefix="mailonce-bench-"))
        self._folder.chmod(0o755)
        self._children: list[Child] = []
        self._count = 0
        self.missing: dict[str, str] = {}

    def __enter__(self) -> Rig:
        """Start what all peers share."""
        # A terminated run stops what it started, as an interrupted one does.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        process.raise_file_limit()
        CACHE.mkdir(exist_ok=True)
        # The folder keeps itself out of git.
        (CACHE / ".gitignore").write_text("*\n")
        self.redis = self.start_redis()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop everything and leave nothing."""
        for child in reversed(self._children):
            child.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start_redis(self) -> Redis:
        """Start a Redis that keeps nothing on disk.

        Raises:
            StartError: it did not come up.
        """
        port = process.free_port()
        args = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        child = process.start([*args, "--dir", self._folder], self._folder / f"redis-{port}.log")
        self._children.append(child)
        process.wait_for(lambda: process.answers(port, b""), child)
        return Redis(child, port)

    def site(self, sink: Sink, redis: Redis | None = None) -> Site:
        """Return a fresh place for a peer."""
        self._count += 1
        folder = self._folder / f"peer-{self._count}"
        folder.mkdir()
        return Site(folder, CACHE, sink.port, (redis or self.redis).port)

    def start(self, peer: Peer, redis: Redis | None = None) -> Station | None:
        """Start a peer and its sink; one that cannot be had is noted in `missing`.

        Returns:
            The station, or None if the peer is missing.
        """
        sink = start_sink(self._folder)
        self._children.append(sink.child)
        site = self.site(sink, redis)
        try:
            running = peer.start(site)
        except StartError as error:
            self.missing[peer.name] = str(error)
            sink.child.stop()
            return None
        if running.child:
            self._children.append(running.child)
        return Station(peer, running, sink, redis or self.redis)

    def stop(self, station: Station) -> None:
        """Stop a peer and its sink before the end of the run."""
        if station.running.child:
            station.running.child.stop()
        station.sink.child.stop()

    def certificate(self) -> Path:
        """Return a PEM file with a new self-signed certificate and its key."""
        path = self._folder / "certificate.pem"
        if not path.exists():
            args = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
            args += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
            args += ["-subj", "/CN=bench.example.net", "-keyout", str(path), "-out", f"{path}.crt"]
            subprocess.run(args, check=True, capture_output=True)
            path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
        return path


def messages_for(station: Station, load: Load, seconds: float, warm_s: float) -> int:
    """Warm a peer up and return how many messages fill a time.

    Args:
        station: the peer; compilers that work while it runs (Node's) want some seconds.
        load: what is sent.
        seconds: to fill.
        warm_s: at least this long.

    Raises:
        RoundError: it does not take them.
    """
    unit = load.sessions * load.copies
    count, rate, end = unit, 1.0, time.monotonic() + warm_s
    # The first try pays for everything that is done once; the last one counts.
    while True:
        sent = _send(station, load, count)
        rate = sent.messages / max(sent.seconds, 1e-3)
        if time.monotonic() > end:
            return max(load.least * unit, round(rate * seconds / unit) * unit)
        count = max(unit, round(rate * warm_s / 3 / unit) * unit)


def measure(
    station: Station, load: Load, messages: int, *, delivered: int | None = None
) -> dict[str, float]:
    """Send messages through a peer once.

    Args:
        station: the peer.
        load: what is sent.
        messages: how many.
        delivered: how many are to reach the sink; None for all.

    Returns:
        Values: ``rate`` (messages/s), ``mib_s``, CPU time per message in µs (``cpu_us`` of the
        peer, ``cpu_us.NAME`` of its processes, ``redis_us``, ``sink_us``, ``load_us``, and
        ``chain_us`` of all of them),
        ``rss_mib`` (highest of any of its processes), ``rss_sum_mib``, ``foreign`` (share of the
        machine that others took), and ``p50_us`` and ``p99_us`` from our own generator.

    Raises:
        RoundError: a message was refused, or did not reach the sink.
    """
    roots = {
        "peer": station.pids(),
        "redis": [station.redis.child.pid],
        "sink": [station.sink.child.pid],
    }
    for pid in process.usage(roots["peer"]):
        process.reset_peak_rss(pid)
    expected = messages if delivered is None else delivered
    count = station.sink.count()
    time.sleep(_SETTLE_S)  # the warm-up's confirmations, unseen from here, are not this round's
    before = {name: process.usage(pids) for name, pids in roots.items()}
    busy_s = process.machine_cpu_s()
    own_s = time.process_time()
    sent = _send(station, load, messages)
    own_s = time.process_time() - own_s
    busy_s = process.machine_cpu_s() - busy_s
    arrived = station.sink.count_of(count + expected) - count
    if arrived != expected:
        raise RoundError(f"{messages} messages sent, {arrived} delivered")
    after = {name: process.usage(pids) for name, pids in roots.items()}
    costs = {name: process.spent(before[name], after[name]) for name in before}
    totals = {name: sum(cost.values()) for name, cost in costs.items()}
    foreign_s = busy_s - sum(totals.values()) - sent.cpu_s - own_s
    peaks = [process.peak_rss_kib(pid) / _KIB_PER_MIB for pid in after["peer"]]
    values = {
        "rate": messages / sent.seconds,
        "mib_s": messages * load.size_octets / _MIB / sent.seconds,
        "cpu_us": totals["peer"] / messages * _US,
        "redis_us": totals["redis"] / messages * _US,
        "sink_us": totals["sink"] / messages * _US,
        "load_us": sent.cpu_s / messages * _US,
        "rss_mib": max(peaks, default=0.0),
        "rss_sum_mib": sum(peaks),
        "foreign": max(0.0, foreign_s / (sent.seconds * (os.cpu_count() or 1))),
        "messages": float(messages),
    }
    values["chain_us"] = sum(values[key] for key in ("cpu_us", "redis_us", "sink_us", "load_us"))
    for name, seconds in costs["peer"].items():
        values[f"cpu_us.{name}"] = seconds / messages * _US
    return values | _latencies(sent)


def _latencies(sent: Sent) -> dict[str, float]:
    """Return how long messages took, if the generator has told."""
    ordered = sorted(sent.latencies_us)
    if not ordered:
        return {}
    return {
        "p50_us": ordered[len(ordered) // 2],
        "p99_us": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
    }


def _send(station: Station, load: Load, messages: int) -> Sent:
    sent = send(station.running.port, load, messages)
    if sent.complaint or sent.messages != messages:
        raise RoundError(
            f"{station.peer.name}: {sent.messages} of {messages}: {sent.complaint.strip()}"
        )
    return sent


@contextlib.contextmanager
def idle_sessions(port: int, count: int) -> Iterator[None]:
    """Hold sessions open that have greeted and say nothing more."""
    sessions: list[socket.socket] = []
    try:
        for _ in range(count):
            session = socket.create_connection(("127.0.0.1", port), 30)
            sessions.append(session)
            _reply(session)
            session.sendall(b"EHLO idle.example.net\r\n")
            _reply(session)
        yield
    finally:
        for session in sessions:
            session.close()


def _reply(session: socket.socket) -> None:
    text = b""
    while not (text.endswith(b"\r\n") and text.splitlines()[-1][3:4] == b" "):
        data = session.recv(4096)
        if not data:
            raise RoundError("an idle session was closed")
        text += data
    if not text.startswith(b"2"):
        raise RoundError(text.decode("latin-1"))
