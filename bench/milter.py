"""CPU per message of the milter, beside one that does nothing: ``python -m bench.milter``.

The load plays Postfix: one negotiation per connection, then messages in the packets that Postfix
sends, answered only at their end. Messages are new, of 4 KiB, with a header section as it comes
from the internet. CPU is that of the whole process, user and system, by the kernel's count.

The peer is a milter over libmilter, in C, that takes everything in and does nothing
(`milter_null.c`): what any milter over libmilter costs at least, and what ours may cost
(docs/adr/0044). Ours is ``mailonce serve`` with one worker, metrics and log, with Redis and with
its list in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

from bench.peers.mailonce import worker_pids
from bench.process import Child, StartError, answers, free_port, start, wait_for

_BOUND = "20 connections, kept"
_ROOT = Path(__file__).resolve().parents[1]
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_NUMBERS = count()
_NULL_SOURCE = Path(__file__).with_name("milter_null.c")
_UNBUILT = "the C milter cannot be built: apt-get install gcc libc6-dev libmilter-dev"
_RECEIVED = (
    b"Received\0 from mail.example.com (mail.example.com [192.0.2.1])\n\tby mx.example.net with"
    b" ESMTPS id 4f3QzT0abcz9s; Tue, 24 Nov 2026 09:00:01 +0100 (CET)"
)
_SUBMITTED = (
    b"Received\0 from client.example.com (unknown [198.51.100.7])\n\tby mail.example.com (Postfix)"
    b" with ESMTPSA id 4f3QzS5defz9r\n\tfor <bob@example.net>; Tue, 24 Nov 2026 09:00:00 +0100"
)
_SIGNATURE = (
    b"DKIM-Signature\0 v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com; s=s1;\n\tt=1795500000;"
    b" h=from:to:subject:date:message-id;\n\tbh=%b;\n\tb=%b" % (b"a" * 44, b"b" * 340)
)
_FIELDS = (
    b"Return-Path\0 <alice@example.com>",
    _RECEIVED,
    _SUBMITTED,
    _SIGNATURE,
    b"From\0 Alice Example <alice@example.com>",
    b"To\0 Bob Example <bob@example.net>",
    b"Subject\0 lunch at noon, as always, and the minutes of last week",
    b"Date\0 Tue, 24 Nov 2026 09:00:00 +0100",
    b"MIME-Version\0 1.0",
    b"Content-Type\0 text/plain; charset=utf-8",
    b"Content-Transfer-Encoding\0 8bit",
    b"User-Agent\0 Mutt/2.2.9 (2022-11-12)",
)
_BODY = (b"All work and no play makes Jack a dull boy. %d\r\n" * 70)[:3000]


def _packet(command: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload) + 1) + command + payload


def _opening() -> bytes:
    """Return what a connection begins with, behind the negotiation."""
    client = b"client.example.com\x004\x12\x34192.0.2.1\0"
    return _packet(b"D", b"C") + _packet(b"C", client)


def _message(number: int) -> bytes:
    """Return the packets of one new message; macros come before every event, as from Postfix."""
    fields = (*_FIELDS, b"Message-ID\0 <%d.%d@example.com>" % (os.getpid(), number))
    parts = [
        _packet(b"D", b"M") + _packet(b"M", b"<alice@example.com>\0SIZE=4096\0"),
        _packet(b"D", b"R") + _packet(b"R", b"<bob@example.net>\0"),
        _packet(b"D", b"T"),
        *(_packet(b"D", b"L") + _packet(b"L", field + b"\0") for field in fields),
        _packet(b"D", b"N"),
        _packet(b"D", b"Ei\x004f3QzT0abcz9s\0") + _packet(b"B", _BODY),
        _packet(b"D", b"Ei\x004f3QzT0abcz9s\0") + _packet(b"E"),
    ]
    return b"".join(parts)


def _read_packet(link: socket.socket) -> bytes:
    """Return one whole packet, its length aside."""
    length = struct.unpack("!I", _exactly(link, 4))[0]
    return _exactly(link, length)


def _exactly(link: socket.socket, octets: int) -> bytes:
    got = b""
    while len(got) < octets:
        more = link.recv(octets - len(got))
        if not more:
            raise StartError("the milter hung up")
        got += more
    return got


def _connect(port: int) -> socket.socket:
    link = socket.create_connection(("127.0.0.1", port), 10)
    link.setsockopt(socket.SOL_TCP, socket.TCP_NODELAY, 1)
    link.sendall(_packet(b"O", struct.pack("!III", 6, 0x1FF, 0x1FFFFF)))
    if _read_packet(link)[:1] != b"O":
        raise StartError("no negotiation")
    link.sendall(_opening())
    return link


@dataclass
class _Load:
    """Sends messages that nobody has seen.

    Attributes:
        port: of the milter.
        connections: at once.
        per_connection: messages before it is opened anew.
    """

    port: int
    connections: int
    per_connection: int

    def run(self, seconds: float) -> int:
        """Send for so long; return how many messages were answered."""
        end = time.monotonic() + seconds
        links = {link.fileno(): link for link in (self._opened() for _ in range(self.connections))}
        left = dict.fromkeys(links, self.per_connection - 1)
        poll = select.poll()
        for number in links:
            poll.register(number, select.POLLIN)
        done = 0
        while links:
            for number, _ in poll.poll(10_000):
                answer = _read_packet(links[number])
                if answer[:1] != b"c":
                    raise StartError(f"the milter answers {answer[:80]!r}")
                done += 1
                is_over = time.monotonic() > end
                if is_over or not left[number]:
                    poll.unregister(number)
                    link = links.pop(number)
                    link.sendall(_packet(b"A") + _packet(b"Q"))
                    link.close()
                    if not is_over:
                        link = self._opened()
                        links[link.fileno()] = link
                        left[link.fileno()] = self.per_connection - 1
                        poll.register(link, select.POLLIN)
                    continue
                left[number] -= 1
                self._send(links[number])
        return done

    def _opened(self) -> socket.socket:
        link = _connect(self.port)
        self._send(link)
        return link

    def _send(self, link: socket.socket) -> None:
        link.sendall(_packet(b"A") + _message(next(_NUMBERS)))


def _cpu_s(pids: list[int]) -> float:
    """Return what processes have used so far, ended threads included, in seconds."""
    used = 0.0
    for pid in pids:
        # proc(5): user and system time are the 12th and 13th field behind the name.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) * _TICK_S
    return used


@contextmanager
def _null_milter(folder: Path) -> Iterator[tuple[int, Callable[[], list[int]]]]:
    program = folder / "milter_null"
    compiler = shutil.which("cc")
    if compiler is None:
        raise StartError(_UNBUILT)
    build: list[str | Path] = [
        compiler,
        "-O2",
        "-o",
        program,
        _NULL_SOURCE,
        "-lmilter",
        "-lpthread",
    ]
    if subprocess.run(build, check=False).returncode:
        raise StartError(_UNBUILT)
    port = free_port()
    child = start([program, f"inet:{port}@127.0.0.1"], folder / "null.log")
    with _stopping(child, port):
        yield port, lambda: [child.pid]


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)]
    with _stopping(start(command, folder / "redis.log"), port):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def _mailonce(folder: Path, store: str) -> Iterator[tuple[int, Callable[[], list[int]]]]:
    port = free_port()
    name = store.partition(":")[0]
    config = folder / f"{name}.toml"
    config.write_text(
        f'hostname = "bench.example.net"\nworkers = 1\n[listen]\n'
        f'smtp = ["127.0.0.1:{free_port()}"]\nmilter = ["127.0.0.1:{port}"]\n'
        f'http = "127.0.0.1:{free_port()}"\n[downstream]\n'
        f'servers = ["smtp://127.0.0.1:{free_port()}"]\nidentity = "none"\n'
        f'[store]\nurl = "{store}"\n'
    )
    command: list[str | Path] = [sys.executable, "-m", "gateway", "serve", "--config", config]
    child = start(command, folder / f"{name}.log", cwd=_ROOT)
    with _stopping(child, port):
        yield port, lambda: [child.pid, *worker_pids(child)]


@contextmanager
def _stopping(child: Child, port: int) -> Iterator[None]:
    try:
        wait_for(lambda: answers(port, b""), child)
        yield
    finally:
        child.stop()


def main() -> int:
    """Measure, print a table; return 1 if we take more than the milter that does nothing."""
    parser = argparse.ArgumentParser(prog="python -m bench.milter", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    arguments = parser.parse_args()
    shapes = {
        _BOUND: (20, 1_000_000),
        "1 connection, kept": (1, 1_000_000),
        "20 connections, 10 messages each": (20, 10),
        "20 connections, a message each": (20, 1),
    }
    measured: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            _null_milter(folder) as null,
            _redis(folder) as url,
            _mailonce(folder, url) as ours,
            _mailonce(folder, "memory://") as alone,
        ):
            peers = {"libmilter": null, "mailonce": ours, "mailonce in memory": alone}
            for port, _ in peers.values():
                _Load(port, 20, 1_000_000).run(1.0)
            for _ in range(arguments.rounds):
                for shape, (connections, per_connection) in shapes.items():
                    for peer, (port, pids) in peers.items():
                        before = _cpu_s(pids())
                        done = _Load(port, connections, per_connection).run(arguments.seconds)
                        used_us = (_cpu_s(pids()) - before) / done * 1e6
                        measured.setdefault(shape, {}).setdefault(peer, []).append(used_us)
    figures = {s: {p: round(median(v), 1) for p, v in of.items()} for s, of in measured.items()}
    for shape, of in figures.items():
        ratio = of["mailonce"] / of["libmilter"]
        print(f"{shape:34}", *(f"{p}: {us:6.1f} us" for p, us in of.items()), f"({ratio:.2f} x)")
    if arguments.out:
        arguments.out.write_text(json.dumps({"unit": "us of CPU per message", **figures}, indent=1))
    return int(figures[_BOUND]["mailonce"] > figures[_BOUND]["libmilter"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StartError as error:
        sys.exit(str(error))
