"""P8: whatever a client sends, however long, whether it reads or not: its cost is bounded."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import Client, ClosedError
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.letter import fresh_id
from tests.support.process import wait_until
from tests.support.sink import Sink

X = "x@example.org"
_MIB = 1024 * 1024
_GROWTH_OCTETS = 20 * _MIB
_FLOOD_OCTETS = 64 * _MIB
# What is refused is read on for 64 MiB, so that whoever comes to an end hears why.
_CONTENT_OCTETS, _TAKEN_OCTETS = 160 * _MIB, 96 * _MIB
_SESSIONS, _SESSION_OCTETS = 5000, 12 * 1024


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink(keeps_content=False) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(sink: Sink) -> Iterator[Gateway]:
    settings = {
        **settings_for(sink.port),
        "limits.message_size": "1MiB",
        "limits.sessions": _SESSIONS + 100,
        "limits.sessions_per_client": _SESSIONS + 100,
    }
    with running_gateway(settings) as instance:
        yield instance


@pytest.fixture(scope="module")
def impatient(sink: Sink) -> Iterator[Gateway]:
    with running_gateway({**settings_for(sink.port), "limits.idle_timeout": "4s"}) as instance:
        yield instance


class Memory:
    """How much the worker of a gateway has grown since this was made."""

    def __init__(self, gateway: Gateway) -> None:
        (self._pid,) = gateway.worker_pids
        self._before = self._resident()
        self.most = 0

    def look(self) -> int:
        """Return the growth in octets now, and keep the most that was seen."""
        growth = self._resident() - self._before
        self.most = max(self.most, growth)
        return growth

    def _resident(self) -> int:
        status = Path(f"/proc/{self._pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


def _flood(client: Client, block: bytes, memory: Memory, most_octets: int = _FLOOD_OCTETS) -> int:
    """Send a block again and again, until we are stopped; return how many octets went out."""
    sent = 0
    try:
        while sent < most_octets:
            client.send(block)
            sent += len(block)
            memory.look()
    except OSError:  # cut off, or nobody takes any more
        pass
    return sent


def _last_answer(client: Client) -> int:
    """Return the code of the last reply before the end of the connection; 0 if it was cut."""
    code = 0
    try:
        while True:
            code = client.answer().code
    except (ClosedError, TimeoutError):
        return code


def _began_content(gateway: Gateway) -> Client:
    client = Client(gateway.port)
    client.greet()
    client.command("MAIL FROM:<a@sender.test>")
    client.command(f"RCPT TO:<{X}>")
    assert client.command("DATA").code == 354
    return client


_HEAD = b"Message-ID: <%b>\r\n"
FLOODS = [
    (b"\r\n", b"x" * 65_536, "a line without end"),
    (b"\r\n", (b"x" * 998 + b"\r\n") * 64, "lines without end"),
    (b"", (b"X-Field: " + b"x" * 900 + b"\r\n") * 64, "a header section without end"),
    (b"X-Field: ", b"x" * 65_536, "a header line without end"),
    (b"X-Field: a\r\n", b"\tfolded\r\n" * 1000, "a field without end"),
    (b"", b"Received: by x\r\n" * 1000, "trace fields without end"),
    (b"", b"Message-ID: <a@b>\r\n" * 1000, "ids without end"),
    (b"\r\n", b".\n" * 10_000, "nothing but bare line feeds"),
    (b"\r\n", b"\r\n..\r\n" * 10_000, "nothing but dots"),
]


@pytest.mark.parametrize(("begin", "block", "reason"), FLOODS, ids=[row[2] for row in FLOODS])
def test_content_without_end(
    gateway: Gateway, sink: Sink, begin: bytes, block: bytes, reason: str
) -> None:
    """It is discarded for a while, and then the connection is closed."""
    sink.forget()
    memory = Memory(gateway)
    with _began_content(gateway) as client:
        client.send(_HEAD % fresh_id().encode() + begin)
        sent = _flood(client, block, memory, _CONTENT_OCTETS)
        assert sent < _TAKEN_OCTETS, reason
    wait_until(lambda: gateway.metric("mailonce_sessions") == 0, "the session ends")
    memory.look()
    assert memory.most < _GROWTH_OCTETS, f"{reason}: {memory.most / _MIB:.1f} MiB"
    assert not any(transaction.is_ended for transaction in sink.transactions)


def test_a_full_disk_is_452_and_the_session_goes_on(sink: Sink) -> None:
    """A suspect message that cannot be held back is put off, to the reply that says why."""
    sink.forget()
    settings = {**settings_for(sink.port), "store.url": "memory://"}
    small = (_HEAD + b"\r\nText.\r\n.\r\n") % fresh_id().encode()
    large = small.replace(b"Text.", b"x" * 998 + b"\r\n" + (b"y" * 998 + b"\r\n") * 600)
    room = ("prlimit", "--fsize=300000", "--")
    with running_gateway(settings, wrapper=room) as full, Client(full.port) as client:
        client.greet()
        for content, code in ((small, 250), (large, 452), (large, 452)):
            client.command("MAIL FROM:<a@sender.test>")
            client.command(f"RCPT TO:<{X}>")
            assert client.command("DATA").code == 354
            client.send(content)
            assert client.answer().code == code
        assert client.command("NOOP").code == 250
        unchecked = {"verdict": "unchecked", "action": "deferred"}
        assert full.metric("mailonce_messages_total", **unchecked) == 2
    assert len(sink.accepted) == 1


COMMANDS = [
    (b"x" * 65_536, "a command without end"),
    (b"\0" * 65_536, "NULs without end"),
    (b"MAIL FROM:<" + b"a" * 65_000, "a path without end"),
]


@pytest.mark.parametrize(("block", "reason"), COMMANDS, ids=[row[1] for row in COMMANDS])
def test_command_without_end(gateway: Gateway, block: bytes, reason: str) -> None:
    memory = Memory(gateway)
    with Client(gateway.port) as client:
        client.greet()
        assert _flood(client, block, memory) < 8 * _MIB, reason
    assert memory.most < _GROWTH_OCTETS, reason


QUESTIONS = [
    (b"HELP\r\n" * 10_000, "help"),
    (b"NOOP\r\n" * 10_000, "nothing"),
    (b"EHLO client.test\r\n", "the name, in step or not"),
    (b"RSET\r\n" * 10_000, "resets"),
    (b"VRFY x\r\n" * 10_000, "addresses"),
]


@pytest.mark.parametrize(("block", "reason"), QUESTIONS, ids=[row[1] for row in QUESTIONS])
def test_a_client_that_asks_and_never_reads(impatient: Gateway, block: bytes, reason: str) -> None:
    """It is not read from any more; in the end it is cut, whether it reads the farewell or not."""
    memory = Memory(impatient)
    silent = impatient.metric("mailonce_sessions_total", result="timeout")
    with Client(impatient.port) as client:
        client.greet()
        client.wait_at_most(1.0)
        sent = _flood(client, block, memory)
        assert sent < 32 * _MIB, reason
        wait_until(lambda: impatient.metric("mailonce_sessions") == 0, "the session ends")
        memory.look()
        if reason != QUESTIONS[2][1]:
            assert impatient.metric("mailonce_sessions_total", result="timeout") == silent + 1
            wait_until(lambda: not _is_held(impatient.port, client.port), "the connection is cut")
    assert memory.most < _GROWTH_OCTETS, f"{reason}: {memory.most / _MIB:.1f} MiB"


def _is_held(port: int, client_port: int) -> bool:
    """Say whether a process still has the server's end of a connection on loopback."""
    ends = f"0100007F:{port:04X}", f"0100007F:{client_port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # What nobody has any more has no inode.
    return any(row[9] != "0" for row in rows if (row[1], row[2]) == ends)


@pytest.mark.slow
def test_idle_sessions(gateway: Gateway) -> None:
    """5,000 sessions that have said EHLO and wait: at most 12 KiB each."""
    gateway.wait_for_metric(0, "mailonce_sessions")
    memory = Memory(gateway)
    clients: list[socket.socket] = []
    try:
        for number in range(_SESSIONS):
            source = (f"127.0.{number // 250 + 1}.{number % 250 + 1}", 0)
            client = socket.create_connection(("127.0.0.1", gateway.port), 30, source)
            clients.append(client)
        for client in clients:
            assert client.recv(1000).startswith(b"220 ")
            client.sendall(b"EHLO client.test\r\n")
        for client in clients:
            assert client.recv(1000).startswith(b"250-")
        gateway.wait_for_metric(_SESSIONS, "mailonce_sessions")
        each = memory.look() / _SESSIONS
        print(f"{each / 1024:.1f} KiB for each idle session")
        assert each <= _SESSION_OCTETS
        with Client(gateway.port) as another:
            assert another.greet().code == 250, "there is room for one more"
    finally:
        for opened in clients:
            opened.close()
    wait_until(lambda: gateway.metric("mailonce_sessions") == 0, "the sessions end", 30.0)
