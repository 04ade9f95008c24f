"""A mail server that takes everything down: the downstream of most tests.

It speaks SMTP or LMTP in a thread of its own, so that tests may wait for it in any way they like.
What it answers can be scripted, command by command; what it was sent is kept octet for octet, with
the time of each command. It shares no code with the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from socket import SO_LINGER, SOL_SOCKET

from tests.support.process import free_port, wait_until
from tests.support.recording import (
    Answer,
    Line,
    Session,
    Then,
    Transaction,
    attributes,
    proxy_v2,
)

_CHUNK_OCTETS = 256 * 1024
_LONGEST_LINE_OCTETS = 64 * 1024
_END = b"\r\n.\r\n"
# Like any server that is no open relay, it refuses some domains; one that exists nowhere will do.
_FOREIGN = ".invalid>"
_PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

EXTENSIONS = (
    "PIPELINING",
    "SIZE 52428800",
    "8BITMIME",
    "SMTPUTF8",
    "DSN",
    "ENHANCEDSTATUSCODES",
    "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT",
)
"""What it offers unless told otherwise."""


class Sink:
    """The server.

    Attributes:
        port: where it listens on loopback.
        sessions: all since the start or the last `forget`, in order of connecting.
        journal: all commands of all sessions in order of arrival, with the session's number; an
            empty one where a connection ended within content.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        path: str = "",
        is_lmtp: bool = False,
        extensions: Sequence[str] = EXTENSIONS,
        expects_proxy: bool = False,
        ends: Sequence[bytes] = (_END,),
        tls: ssl.SSLContext | None = None,
        name: str = "sink.test",
        keeps_content: bool = True,
    ) -> None:
        """Open nothing yet; `start`, or use it as a context manager.

        Args:
            port: to listen on; 0 takes a free one.
            path: of a unix socket, in place of the port.
            is_lmtp: LHLO in place of EHLO, one reply per recipient after the dot.
            extensions: lines of the EHLO reply.
            expects_proxy: a PROXY header must come first.
            ends: octet strings that end content; a server open to smuggling knows more than one.
            tls: for STARTTLS, which is then offered.
            name: in banner and EHLO reply.
            keeps_content: whether `raw` is kept, too; `Transaction.content` always is.
        """
        self.port = port or free_port()
        self.path = path
        self.sessions: list[Session] = []
        self.journal: list[tuple[int, Line]] = []
        self.extensions = tuple(extensions)
        self._is_lmtp = is_lmtp
        self._expects_proxy = expects_proxy
        self._ends = tuple(ends)
        self._tls = tls
        self._name = name
        self._keeps_content = keeps_content
        self._once: dict[str, deque[Answer]] = defaultdict(deque)
        self._always: dict[str, Answer] = {}
        self._queue_ids = 0
        self._numbers = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: asyncio.Server | None = None
        self._thread: threading.Thread | None = None
        self._open: set[asyncio.Task[None]] = set()

    # --- For tests ---

    def __enter__(self) -> Sink:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, in a thread of its own."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(30), "the sink does not start"
        self.listen()

    def stop(self) -> None:
        """End all sessions and the thread."""
        if self._loop is None or self._thread is None:
            return
        self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop = self._thread = None

    def listen(self) -> None:
        """Take connections, again after `refuse`."""
        self._call(self._listen())

    def refuse(self) -> None:
        """Be down: take no connection, and cut those that are open."""
        self._call(self._shut())

    def cut(self) -> None:
        """Cut all open connections, but take new ones."""
        self._call(self._cut())

    def answer(self, verb: str, answer: Answer | bytes, *, always: bool = False) -> None:
        """Script an answer.

        Args:
            verb: of the command; ``greeting`` for the banner, ``content`` for the dot (LMTP: for
                each recipient).
            answer: for the next such command that has none yet, of whatever session.
            always: for all from now on that have none of their own.
        """
        if isinstance(answer, bytes):
            answer = Answer(answer)
        if always:
            self._always[verb.lower()] = answer
        else:
            self._once[verb.lower()].append(answer)

    def forget(self) -> None:
        """Drop records and scripted answers."""
        self.sessions = []
        self.journal = []
        self._once.clear()
        self._always.clear()

    @property
    def transactions(self) -> list[Transaction]:
        """Return those that came to content, in order of their ends."""
        found = [each for session in self.sessions for each in session.transactions]
        return sorted(found, key=lambda transaction: transaction.at_s)

    @property
    def accepted(self) -> list[Transaction]:
        """Return the transactions that the sink has said 2xx to, for any recipient."""
        return [transaction for transaction in self.transactions if transaction.delivered]

    def deliveries(self) -> list[tuple[str, bytes]]:
        """Return recipient and message, once for each copy accepted."""
        return [
            (recipient, transaction.message)
            for transaction in self.transactions
            for recipient in transaction.delivered
        ]

    def wait_for_transactions(self, count: int, limit_s: float = 30.0) -> list[Transaction]:
        """Wait until so many transactions have come to their end, and return all."""
        wait_until(lambda: len(self.transactions) >= count, f"{count} transactions", limit_s)
        return self.transactions

    def wait_for_command(self, verb: str, count: int = 1, limit_s: float = 30.0) -> Line:
        """Wait until a command has come so often, and return the last of these."""

        def seen() -> list[Line]:
            return [line for _, line in self.journal if line.verb == verb.upper()]

        wait_until(lambda: len(seen()) >= count, f"{count} {verb} at the sink", limit_s)
        return seen()[count - 1]

    # --- In the thread ---

    def _run(self, ready: threading.Event) -> None:
        self._loop = loop = asyncio.new_event_loop()
        loop.call_soon(ready.set)
        try:
            loop.run_forever()
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    def _call(self, work: Coroutine[None, None, None]) -> None:
        assert self._loop is not None, "the sink has not been started"
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        if self._server is not None:
            return
        if self.path:
            self._server = await asyncio.start_unix_server(
                self._connected, self.path, limit=_LONGEST_LINE_OCTETS
            )
        else:
            self._server = await asyncio.start_server(
                self._connected, "127.0.0.1", self.port, limit=_LONGEST_LINE_OCTETS, backlog=1000
            )

    async def _shut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            # asyncio forgets to close a connection whose server has gone between its being accepted
            # and its first turn (`Server._attach`). So first none is accepted any more.
            for listener in server.sockets:
                asyncio.get_running_loop().remove_reader(listener)
        for _ in range(10):  # one that has just been accepted becomes a task within a few turns
            await asyncio.sleep(0)
        if server is not None:
            server.close()
        await self._cut()

    async def _cut(self) -> None:
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        session = Session(next(self._numbers))
        self.sessions.append(session)
        conversation = _Conversation(self, session, reader, writer)
        try:
            await conversation.run()
        except (_EndError, ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            conversation.note_unfinished()
            session.is_over = True
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()
            self._open.discard(task)

    def _answer_to(self, verb: str, usual: bytes) -> Answer:
        key = verb.lower()
        if self._once[key]:
            scripted = self._once[key].popleft()
            return scripted if scripted != Answer() else Answer(usual)
        return self._always.get(key, Answer(usual))

    def _next_queue_id(self) -> str:
        self._queue_ids += 1
        return f"SINK{self._queue_ids:08d}"


class _EndError(Exception):
    """The conversation is over by our own doing."""


class _Conversation:
    """One session from banner to end."""

    def __init__(
        self,
        sink: Sink,
        session: Session,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._sink = sink
        self._session = session
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._mail: str | None = None
        self._rcpts: list[str] = []
        self._is_in_content = False
        self._last_code = 0

    async def run(self) -> None:
        if self._sink._expects_proxy:
            await self._proxy_header()
        await self._say("greeting", f"220 {self._sink._name} ESMTP\r\n".encode())
        while True:
            line = await self._line()
            self._note(line)
            await self._obey(line)

    def note_unfinished(self) -> None:
        """Keep what had come of content when the connection ended."""
        if self._is_in_content:
            self._keep(bytes(self._buffer), is_ended=False)
            self._note(Line(b"", time.monotonic()))

    async def _obey(self, line: Line) -> None:
        verb, argument = line.verb, line.text[len(line.verb) + 1 :]
        if verb in ("EHLO", "LHLO"):
            self._forget()
            await self._say(verb, self._ehlo_reply())
        elif verb == "MAIL":
            await self._mail_command(argument)
        elif verb == "RCPT":
            await self._rcpt_command(argument)
        elif verb == "DATA":
            await self._data_command()
        elif verb == "RSET":
            self._forget()
            await self._say(verb, b"250 2.0.0 Ok\r\n")
        elif verb == "STARTTLS" and self._sink._tls is not None:
            await self._start_tls()
        elif verb == "XCLIENT":
            self._session.identity = attributes(argument)
            self._forget()
            await self._say(verb, f"220 {self._sink._name} ESMTP\r\n".encode())
        elif verb == "XFORWARD":
            self._session.identity = {**self._session.identity, **attributes(argument)}
            await self._say(verb, b"250 2.0.0 Ok\r\n")
        elif verb == "QUIT":
            await self._say(verb, b"221 2.0.0 Bye\r\n")
            raise _EndError
        elif verb in ("HELO", "NOOP"):
            await self._say(verb, f"250 {self._sink._name}\r\n".encode())
        else:
            await self._say(verb, b"502 5.5.2 Error: command not recognized\r\n")

    async def _mail_command(self, argument: str) -> None:
        if self._mail is not None:
            await self._write(Answer(b"503 5.5.1 Error: nested MAIL command\r\n"))
            return
        if await self._say("MAIL", b"250 2.1.0 Ok\r\n"):
            self._mail = argument

    async def _rcpt_command(self, argument: str) -> None:
        if self._mail is None:
            await self._write(Answer(b"503 5.5.1 Error: need MAIL command\r\n"))
            return
        if _FOREIGN in argument:
            await self._write(Answer(b"554 5.7.1 Relay access denied\r\n"))
        elif await self._say("RCPT", b"250 2.1.5 Ok\r\n"):
            self._rcpts.append(argument)

    async def _data_command(self) -> None:
        if not self._rcpts:
            await self._say("DATA", b"554 5.5.1 Error: no valid recipients\r\n")
            return
        await self._say("DATA", b"354 End data with <CR><LF>.<CR><LF>\r\n")
        if self._last_code != 354:
            return
        self._is_in_content = True
        content = await self._content()
        self._is_in_content = False
        self._note(Line(b".\r\n", time.monotonic()))
        at = self._keep(content, is_ended=True)
        count = len(self._rcpts) if self._sink._is_lmtp else 1
        self._forget()
        for _ in range(count):
            queue_id = self._sink._next_queue_id()
            usual = f"250 2.0.0 Ok: queued as {queue_id}\r\n".encode()
            await self._say("content", usual, transaction=at)

    async def _start_tls(self) -> None:
        await self._say("STARTTLS", b"220 2.0.0 Ready to start TLS\r\n")
        if self._last_code == 220:
            assert self._sink._tls is not None
            await self._writer.start_tls(self._sink._tls)
            self._session.is_tls = True
            self._session.identity = {}
            self._forget()

    def _ehlo_reply(self) -> bytes:
        texts = [self._sink._name, *self._sink.extensions]
        if self._sink._tls is not None and not self._session.is_tls:
            texts.append("STARTTLS")
        last = len(texts) - 1
        lines = [f"250{' ' if i == last else '-'}{text}\r\n" for i, text in enumerate(texts)]
        return "".join(lines).encode()

    def _forget(self) -> None:
        self._mail, self._rcpts = None, []

    def _note(self, line: Line) -> None:
        self._session.lines.append(line)
        self._sink.journal.append((self._session.number, line))

    def _keep(self, content: bytes, *, is_ended: bool) -> int:
        """Record a transaction; return its index in the session."""
        self._session.transactions.append(
            Transaction(
                self._mail or "",
                tuple(self._rcpts),
                content,
                is_ended,
                (),
                time.monotonic(),
                dict(self._session.identity),
            )
        )
        return len(self._session.transactions) - 1

    async def _say(self, verb: str, usual: bytes, transaction: int | None = None) -> bool:
        """Answer as scripted or as usual; say whether that was 2xx."""
        answer = self._sink._answer_to(verb, usual)
        if transaction is not None and answer.octets:
            # Noted before it is sent: nobody can know of the reply before the record of it.
            kept = self._session.transactions[transaction]
            self._session.transactions[transaction] = replace(
                kept, replies=(*kept.replies, answer.octets)
            )
        await self._write(answer)
        return self._last_code // 100 == 2

    async def _write(self, answer: Answer) -> None:
        self._last_code = int(answer.octets[:3]) if answer.octets[:3].isdigit() else 0
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        if answer.gate is not None:
            await asyncio.get_running_loop().run_in_executor(None, answer.gate.wait, 60)
        if answer.octets:
            self._writer.write(answer.octets)
            await self._writer.drain()
        if answer.then is Then.RESET:
            raw = self._writer.get_extra_info("socket")
            raw.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        if answer.then is Then.SILENCE:
            while await self._reader.read(_CHUNK_OCTETS):
                pass
        if answer.then is not Then.GO_ON:
            raise _EndError

    async def _line(self) -> Line:
        while (end := self._buffer.find(b"\n")) < 0:
            await self._receive()
        octets = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return Line(octets, time.monotonic())

    async def _content(self) -> bytes:
        """Read up to the end of content, whichever of the ends comes first."""
        # The line end before a first dot is that of the DATA command.
        self._buffer[:0] = b"\r\n"
        searched = 0
        longest = max(len(end) for end in self._sink._ends)
        while True:
            found = [
                (at, len(end))
                for end in self._sink._ends
                if (at := self._buffer.find(end, searched)) >= 0
            ]
            if found:
                at, length = min(found)
                content = bytes(self._buffer[2 : at + 2]) if at else b""
                del self._buffer[: at + length]
                return content
            searched = max(0, len(self._buffer) - longest)
            try:
                await self._receive()
            except BaseException:
                del self._buffer[:2]  # what is kept of unfinished content is content alone
                raise

    async def _proxy_header(self) -> None:
        while True:
            if self._buffer[:12] == _PROXY_SIGNATURE and len(self._buffer) >= 16:
                length = 16 + int.from_bytes(self._buffer[14:16])
                if len(self._buffer) >= length:
                    self._session.identity = proxy_v2(bytes(self._buffer[:length]))
                    del self._buffer[:length]
                    return
            elif self._buffer[:6] == b"PROXY " and b"\r\n" in self._buffer:
                line, _, rest = bytes(self._buffer).partition(b"\r\n")
                words = line.decode("latin-1").split(" ")
                self._session.identity = dict(
                    zip(("FAMILY", "ADDR", "DESTADDR", "PORT", "DESTPORT"), words[1:], strict=False)
                )
                self._buffer[:] = rest
                return
            await self._receive()

    async def _receive(self) -> None:
        received = await self._reader.read(_CHUNK_OCTETS)
        if not received:
            raise _EndError
        self._buffer += received
        if self._sink._keeps_content:
            self._session.raw += received
