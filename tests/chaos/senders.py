"""Clients that retry: on 4xx and on a lost connection, for as long as it takes (RFC 5321 4.5.4.1).

They send each message until every recipient is accepted, or refused for good; then copies, where a
message has some. Some of them vanish when they are told to.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field

from tests.chaos.ledger import Attempt, Ledger, now
from tests.chaos.post import SENDER, Office, Post

VANISHINGS = ("within content", "reset after the dot", "closed after the dot", "silent")

_PATIENCE_S = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.3, 3.0
_SILENT_S = 6.0
_COPY_WITHIN_S = 8.0
_BLOCK_OCTETS = 16 * 1024
_MOST_MESSAGES = 12


@dataclass(order=True, slots=True)
class _Task:
    """One message, or one more copy of it, that is to be sent."""

    due_s: float
    serial: int
    post: Post = field(compare=False)
    outstanding: list[str] = field(compare=False)
    is_copy: bool = field(compare=False, default=False)
    tries: int = field(compare=False, default=0)
    first_try_s: float = field(compare=False, default=0.0)


class _LostError(Exception):
    """The connection is over."""


class _VanishedError(Exception):
    """And it was we who ended it."""


@dataclass(slots=True)
class _Line:
    """A connection to the gateway."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    attempts: deque[Attempt]
    port: int
    messages: int = 0

    async def reply(self) -> tuple[int, str]:
        """Return the next reply."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while True:
                    line = await self.reader.readline()
                    if not line.endswith(b"\n"):
                        raise _LostError("closed")
                    if line[3:4] != b"-":
                        return int(line[:3]), line[4:].decode("latin-1").rstrip()
        except TimeoutError as error:
            raise _LostError("no reply") from error
        except OSError as error:
            raise _LostError(str(error)) from error

    async def expect(self, wanted: int) -> None:
        """Take no other reply."""
        code, text = await self.reply()
        if code != wanted:
            raise _LostError(f"{code} {text}")

    async def say(self, octets: bytes) -> None:
        """Send."""
        if self.writer.is_closing():
            raise _LostError("closed")
        try:
            async with asyncio.timeout(_PATIENCE_S):
                self.writer.write(octets)
                await self.writer.drain()
        except (TimeoutError, OSError) as error:
            raise _LostError(str(error)) from error


class Senders:
    """All clients.

    Attributes:
        attempts: port -> what the client there is trying, newest last.
        vanishing: how the next ones will vanish.
        unsent: how many messages and copies are not yet through.
        longest_s: what the slowest one took from its first try.
    """

    def __init__(self, office: Office, ledger: Ledger, port: int, seed: int) -> None:
        self._office = office
        self._ledger = ledger
        self._port = port
        self._draw = random.Random(f"senders {seed}")
        self._serials = itertools.count()
        self._tasks: list[_Task] = []
        self._wake = asyncio.Condition()
        self.attempts: dict[int, deque[Attempt]] = {}
        self.vanishing: deque[str] = deque()
        self.unsent = 0
        self.longest_s = 0.0
        self._busy: dict[int, _Task] = {}

    async def post(self, post: Post) -> None:
        """Have a message sent; some copies go out at the same time, most only later."""
        self._ledger.posts.append(post)
        await self._add(post, is_copy=False, due_s=now())
        for _ in range(post.copies):
            if self._draw.random() < 0.2:
                await self._add(post, is_copy=True, due_s=now())

    def stuck(self) -> list[str]:
        """Describe what is not through."""
        waiting = [*self._tasks, *self._busy.values()]
        return [
            f"message {task.post.number} after {task.tries} tries, {task.outstanding}"
            for task in waiting
        ]

    async def session(self) -> None:
        """Be one client, for ever."""
        line: _Line | None = None
        try:
            while True:
                task = await self._next()
                self._busy[task.serial] = task
                line = await self._tried(line, task)
                del self._busy[task.serial]
                await self._done(task)
                if line is not None and (
                    line.messages >= _MOST_MESSAGES or self._draw.random() < 0.1
                ):
                    await self._quit(line)
                    line = None
        finally:
            self._hang_up(line)

    async def _tried(self, line: _Line | None, task: _Task) -> _Line | None:
        """Try once; return the connection, if it is left."""
        try:
            if line is None:
                line = await self._connect()
            line.messages += 1
            await self._send(line, task)
        except _VanishedError:
            self._hang_up(line)
            return None
        except _LostError:
            if line is not None:
                self._end(line.attempts[-1], 0, "")
            self._hang_up(line)
            return None
        return line

    async def _quit(self, line: _Line) -> None:
        try:
            await line.say(b"QUIT\r\n")
            await line.reply()
        except _LostError:
            pass
        self._hang_up(line)

    def _hang_up(self, line: _Line | None) -> None:
        if line is not None:
            line.writer.transport.abort()

    async def _connect(self) -> _Line:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError as error:
            raise _LostError(str(error)) from error
        port = writer.get_extra_info("sockname")[1]
        # One deque per connection: a session downstream keeps hold of that of its client.
        attempts: deque[Attempt] = deque([Attempt(-1, now())], maxlen=2)
        self.attempts[port] = attempts
        line = _Line(reader, writer, attempts, port)
        try:
            await line.expect(220)
            await line.say(b"EHLO client.test\r\n")
            await line.expect(250)
        except _LostError:
            writer.transport.abort()
            raise
        return line

    async def _send(self, line: _Line, task: _Task) -> None:
        """Try once."""
        written = self._office.write(task.post)
        self._ledger.digests[task.post.number] = written.digest
        attempt = Attempt(task.post.number, now())
        line.attempts.append(attempt)
        self._ledger.attempts += 1
        task.tries += 1
        task.first_try_s = task.first_try_s or attempt.began_s
        envelope = [f"MAIL FROM:<{SENDER}>\r\n".encode()]
        envelope += [f"RCPT TO:<{recipient}>\r\n".encode() for recipient in task.outstanding]
        replies = await self._asked(line, envelope)
        code, text = replies[0]
        accepted = []
        for recipient, (its_code, its_text) in zip(
            list(task.outstanding), replies[1:], strict=True
        ):
            if code // 100 == 2 and its_code // 100 == 2:
                accepted.append(recipient)
            elif code // 100 == 2 and its_code // 100 == 5:
                self._bounce(task, recipient)
            code, text = (code, text) if code // 100 != 2 else (code, its_text)
        if code // 100 == 5:
            for recipient in list(task.outstanding):
                self._bounce(task, recipient)
        if not accepted:
            # All recipients were refused, with 4xx or 5xx; the transaction is open.
            code = 450 if code // 100 == 2 else code
            self._end(attempt, code, text)
            await self._after_refusal(line, code)
            return
        await line.say(b"DATA\r\n")
        code, text = await line.reply()
        if code == 354:
            await self._content(line, written.wire)
            code, text = await line.reply()
        self._end(attempt, code, text)
        for recipient in accepted:
            if code // 100 == 2:
                self._ledger.promised.setdefault((task.post.number, recipient), now())
                task.outstanding.remove(recipient)
            elif code // 100 == 5:
                self._bounce(task, recipient)
        await self._after_refusal(line, code)

    async def _asked(self, line: _Line, commands: list[bytes]) -> list[tuple[int, str]]:
        """Send commands, half of the time in one burst (RFC 2920)."""
        if self._draw.random() < 0.5:
            await line.say(b"".join(commands))
            return [await line.reply() for _ in commands]
        replies = []
        for command in commands:
            await line.say(command)
            replies.append(await line.reply())
        return replies

    async def _after_refusal(self, line: _Line, code: int) -> None:
        if code == 421:
            raise _VanishedError
        if code // 100 != 2:
            await line.say(b"RSET\r\n")
            await line.reply()

    async def _content(self, line: _Line, wire: bytes) -> None:
        how = self.vanishing.popleft() if self.vanishing else ""
        if how in ("within content", "silent"):
            await line.say(wire[: self._draw.randrange(len(wire))])
            if how == "silent":
                # Half-open: nothing more is said, and nothing that is said arrives.
                await asyncio.sleep(_SILENT_S)
            self._vanish(line, how)
        for start in range(0, len(wire), _BLOCK_OCTETS):
            await line.say(wire[start : start + _BLOCK_OCTETS])
        await line.say(b".\r\n")
        if how:
            await asyncio.sleep(self._draw.choice((0.0, 0.0, 0.002, 0.05)))
            self._vanish(line, how)

    def _vanish(self, line: _Line, how: str) -> None:
        self._end(line.attempts[-1], 0, "")
        self._ledger.troubles[f"client {how}"] += 1
        if how == "closed after the dot":
            line.writer.close()
        raise _VanishedError

    def _end(self, attempt: Attempt, code: int, text: str) -> None:
        if attempt.ended_s:
            return
        attempt.ended_s, attempt.code, attempt.text = now(), code, text
        label = f"{code} {text}" if code // 100 == 5 else str(code) if code else "lost"
        self._ledger.codes[label] += 1

    def _bounce(self, task: _Task, recipient: str) -> None:
        self._ledger.bounced.add((task.post.number, recipient))
        task.outstanding.remove(recipient)

    async def _add(self, post: Post, *, is_copy: bool, due_s: float) -> None:
        self.unsent += 1
        task = _Task(due_s, next(self._serials), post, list(post.recipients), is_copy)
        async with self._wake:
            heapq.heappush(self._tasks, task)
            self._wake.notify()

    async def _next(self) -> _Task:
        async with self._wake:
            while True:
                if self._tasks and self._tasks[0].due_s <= now():
                    return heapq.heappop(self._tasks)
                wait_s = self._tasks[0].due_s - now() if self._tasks else 1.0
                try:
                    async with asyncio.timeout(max(0.001, wait_s)):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _done(self, task: _Task) -> None:
        """Try again later what is not through; send copies of what is."""
        if task.outstanding:
            pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**task.tries)
            task.due_s = now() + pause_s * self._draw.uniform(0.5, 1.0)
            async with self._wake:
                heapq.heappush(self._tasks, task)
                self._wake.notify()
            return
        self.unsent -= 1
        self.longest_s = max(self.longest_s, now() - (task.first_try_s or now()))
        if not task.is_copy:
            for _ in range(task.post.copies):
                due_s = now() + self._draw.random() * _COPY_WITHIN_S
                await self._add(task.post, is_copy=True, due_s=due_s)
