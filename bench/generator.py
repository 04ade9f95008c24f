"""A lean SMTP load generator: lock-step like smtp-source, in one thread on bare sockets and epoll.

It can do what smtp-source cannot: send each message more than once, start TLS, keep a rate, and say
how long each message took. Every message is accepted or the run counts as failed. Nothing of
mailonce is in it.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator
from email.utils import formatdate

_MAX_LATENCIES = 200_000
_PATIENCE_S = 60.0
_LINE = b"X" * 78 + b"\r\n"


class Session:
    """One connection and where it stands in its dialogue."""

    __slots__ = ("began", "connection", "replies", "steps")

    def __init__(self, connection: socket.socket) -> None:
        """Take a connection that has been greeted."""
        self.connection = connection
        self.steps: Iterator[bytes] = iter(())
        self.replies = b""
        self.began = 0.0


class Generator:
    """Sends the messages of one run."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Take what to send and where to."""
        self._arguments = arguments
        self._envelope = [b"MAIL FROM:<sender@example.org>\r\n"]
        self._envelope += [
            b"RCPT TO:<r%d@example.com>\r\n" % number for number in range(arguments.recipients)
        ]
        self._envelope.append(b"DATA\r\n")
        lines = arguments.size // len(_LINE)
        rest = arguments.size - lines * len(_LINE)
        self._body = _LINE * lines + (b"Y" * max(0, rest - 2) + b"\r\n" if rest else b"")
        self._next = 0
        self._name = b"%d.%d" % (os.getpid(), time.time_ns())
        self._began_s = 0.0
        self._begun = 0
        self._resting: deque[tuple[float, Session, bytes]] = deque()
        self.accepted = 0
        self.complaint = ""
        self.latencies_us: list[float] = []

    def _content(self, number: int) -> bytes:
        head = (
            b"From: <sender@example.org>\r\nTo: <recipient@example.com>\r\nDate: %b\r\n"
            b"Subject: message %d\r\nMessage-Id: <%b.%d@generator.example.net>\r\n\r\n"
        )
        date = formatdate(1_700_000_000 + number).encode("ascii")
        return b"".join((head % (date, number, self._name, number), self._body, b".\r\n"))

    def _dialogue(self) -> Iterator[bytes]:
        """Yield what one session says; each copy of a message follows the one before it."""
        arguments = self._arguments
        while self._next < arguments.messages // arguments.copies:
            number = self._next
            self._next += 1
            content = self._content(number)
            for _ in range(arguments.copies):
                yield from self._envelope
                yield content

    def open(self) -> Session:
        """Connect and greet; with TLS where asked for."""
        connection = socket.create_connection(("127.0.0.1", self._arguments.port), 30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _expect(connection, b"220")
        if self._arguments.tls:
            _say(connection, b"EHLO generator.example.net\r\n", b"250")
            _say(connection, b"STARTTLS\r\n", b"220")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection = context.wrap_socket(connection)
        _say(connection, b"HELO generator.example.net\r\n", b"250")
        return Session(connection)

    def run(self) -> float:
        """Send everything; return the seconds from the first MAIL to the last reply."""
        sessions = [self.open() for _ in range(self._arguments.sessions)]
        poll = select.epoll()
        by_number = {}
        begin = self._began_s = time.perf_counter()
        for session in sessions:
            # Blocking on purpose: a message is small against the socket buffers, and a large one
            # is sent whole before the next session's turn, as smtp-source does with its writes.
            session.steps = self._dialogue()
            poll.register(session.connection.fileno(), select.EPOLLIN)
            by_number[session.connection.fileno()] = session
            if not self._advance(session):
                poll.unregister(session.connection.fileno())
                del by_number[session.connection.fileno()]
        while by_number:
            for number, _ in poll.poll(self._go_on()):
                session = by_number[number]
                if not self._received(session):
                    poll.unregister(number)
                    del by_number[number]
        seconds = time.perf_counter() - begin
        for session in sessions:
            session.connection.close()
        return seconds

    def _received(self, session: Session) -> bool:
        """Take what has arrived; return whether the session goes on."""
        data = session.connection.recv(4096)
        session.replies += data
        if not data:
            self.complaint = "connection lost"
            return False
        if not session.replies.endswith(b"\n"):
            return True
        reply, session.replies = session.replies, b""
        if reply[:1] not in (b"2", b"3"):
            self.complaint = reply.decode("latin-1").strip()
            return False
        return self._advance(session)

    def _advance(self, session: Session) -> bool:
        """Say the next thing; return False when there is nothing more to say."""
        line = next(session.steps, b"")
        if line.startswith(b"MAIL") or not line:
            now = time.perf_counter()
            if session.began:
                self.accepted += 1
                if len(self.latencies_us) < _MAX_LATENCIES:
                    self.latencies_us.append((now - session.began) * 1e6)
            session.began = now
            if line and self._arguments.rate:
                due_s = self._began_s + self._begun / self._arguments.rate
                self._begun += 1
                if due_s > now:
                    self._resting.append((due_s, session, line))
                    return True
        if line:
            session.connection.sendall(line)
        return bool(line)

    def _go_on(self) -> float:
        """Begin the messages that are due; return how long nothing is, in seconds."""
        while self._resting:
            due_s, session, line = self._resting[0]
            now = time.perf_counter()
            if due_s > now:
                return due_s - now
            self._resting.popleft()
            session.began = now
            session.connection.sendall(line)
        return _PATIENCE_S


def _expect(connection: socket.socket, code: bytes) -> None:
    reply = b""
    while not (reply.endswith(b"\r\n") and reply.splitlines()[-1][3:4] == b" "):
        data = connection.recv(4096)
        if not data:
            raise ConnectionError("closed before its reply")
        reply += data
    if not reply.startswith(code):
        raise ConnectionError(reply.decode("latin-1"))


def _say(connection: socket.socket, line: bytes, code: bytes) -> None:
    connection.sendall(line)
    _expect(connection, code)


def main() -> None:
    """Run from the command line; print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench.generator", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--recipients", type=int, default=1)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0, help="messages/s at most; 0: any")
    parser.add_argument("--tls", action="store_true")
    generator = Generator(parser.parse_args())
    seconds = generator.run()
    latencies = [round(value, 1) for value in generator.latencies_us]
    answer = {
        "accepted": generator.accepted,
        "seconds": seconds,
        "complaint": generator.complaint,
        "latencies_us": latencies,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
