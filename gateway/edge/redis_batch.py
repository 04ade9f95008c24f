"""Many callers, one round trip: what is asked while one is under way goes together in the next.

One `Batcher` stands before one server, and makes a connection when it is needed. A caller waits as
long as its time-out and no longer, whatever it waits for; making a connection may take longer than
that, and goes on behind. What the commands mean may not live here.

Fails with `TrackingListError` when no reply can be trusted: server gone, stalled, connection cut.
The connection is dropped then, so that a late reply can never be taken for another command's. The
refusal of a single command is a value among the replies. Nothing is ever sent twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from hiredis import ReplyError

from gateway.edge.redis_wire import Command, RefusedError, Wire
from gateway.errors import TrackingListError, TrackingListTimeoutError

Dial = Callable[[], Awaitable[Wire]]
Greeting = Callable[[], Sequence[Command]]

# Enough to make the round trip cheap; a bound for its memory and for the server's latency.
_BATCH_COMMANDS = 1000
# Finding and greeting a server behind Sentinel and TLS takes several round trips, and the system
# repeats a lost SYN after a second.
_DIAL_BUDGET_S = 3.0
# When a timer is late the replies may have come meanwhile: uvloop runs timers before it reads.
_GRACE_S = 0.002
_CLOSED = "connection closed by the server"
# The server has become a replica, or comes up only now: another one is right, or this one later.
_WRONG_SERVER = ("READONLY", "LOADING", "MASTERDOWN")


@dataclass(slots=True, eq=False)
class _Call:
    commands: Sequence[Command]
    replies: asyncio.Future[list[object]]
    give_up_at: float


class Batcher:
    """Gathers commands and sends them batch after batch.

    Attributes:
        greeting: returns what goes in front of the first batch on a new connection, in the same
            round trip; what is answered to it is of no matter.
    """

    def __init__(self, name: str, dial: Dial, timeout_s: float) -> None:
        """Connect to nothing yet.

        Args:
            name: of the server, for messages.
            dial: makes a connection; raises `OSError`, `RefusedError` or `TrackingListError`.
            timeout_s: how long a caller waits at most.
        """
        self._name = name
        self._dial = dial
        self._timeout_s = timeout_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wire: Wire | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._waiting: deque[_Call] = deque()
        self._sent: list[_Call] = []
        self._replies: list[object] = []
        self._outstanding = 0
        self._greeted = 0
        self._is_new = False
        self.greeting: Greeting = tuple
        self._is_flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._answer_due_at = 0.0
        self._is_grace_over = False
        self._is_closed = False

    def run(
        self, commands: Sequence[Command], give_up_at: float | None = None
    ) -> asyncio.Future[list[object]]:
        """Send commands with the next batch; they stay together and in order.

        Args:
            commands: at least one.
            give_up_at: on the clock of the loop; None for the time-out from now.

        Returns:
            What will hold one reply per command, a `ReplyError` for a refused one; or
            `TrackingListError`: nothing is known about any of the commands. Cancelled before they
            were sent, the commands are taken back.
        """
        loop = self._loop
        if loop is None:
            # Asked once: CPython 3.11 makes a system call of it (getpid), thrice a message.
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[list[object]] = loop.create_future()
        if self._is_closed:
            future.set_exception(TrackingListError("redis: closed"))
            return future
        if give_up_at is None:
            give_up_at = loop.time() + self._timeout_s
        self._waiting.append(_Call(commands, future, give_up_at))
        if self._timer is None:
            self._timer = loop.call_at(give_up_at, self._watch)
        if self._wire is None:
            self._connect()
        elif not self._sent and not self._is_flush_due:
            # At the end of this turn of the loop: others may have something to ask, too.
            self._is_flush_due = True
            loop.call_soon(self._flush)
        return future

    async def close(self) -> None:
        """Refuse what comes from now on, finish what was asked before, hang up; never raises."""
        self._is_closed = True
        unanswered = {call.replies for call in (*self._sent, *self._waiting)}
        if unanswered:
            await asyncio.wait(unanswered)
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait({self._dialling})
        if self._timer is not None:
            self._timer.cancel()
        self._hang_up()

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._wire is None or self._loop is None or self._sent:
            return
        commands: list[Command] = []
        while self._waiting and len(commands) < _BATCH_COMMANDS:
            call = self._waiting.popleft()
            if not call.replies.done():
                self._sent.append(call)
                commands.extend(call.commands)
        if commands:
            greeting = self.greeting() if self._is_new else ()
            self._greeted, self._is_new = len(greeting), False
            commands[:0] = greeting
            self._outstanding = len(commands)
            self._answer_due_at = self._loop.time() + self._timeout_s
            self._wire.send(commands)

    def _take(self, replies: list[object]) -> None:
        """Take in what has arrived, and hand it out once the batch is complete."""
        if self._replies:
            self._replies.extend(replies)
        else:
            self._replies = replies
        if len(self._replies) < self._outstanding:
            return
        replies, sent = self._replies, self._sent
        self._replies, self._sent, self._outstanding = [], [], 0
        start = self._greeted
        self._greeted = 0
        for call in sent:
            end = start + len(call.commands)
            if not call.replies.done():
                call.replies.set_result(replies[start:end])
            start = end
        if len(replies) > start or any(_is_wrong_server(reply) for reply in replies):
            self._hang_up()
            if self._waiting:
                self._connect()
        elif self._waiting:
            self._flush()

    def _connect(self) -> None:
        if self._dialling is None:
            self._dialling = asyncio.get_running_loop().create_task(self._make_wire())

    async def _make_wire(self) -> None:
        try:
            async with asyncio.timeout(_DIAL_BUDGET_S):
                wire = await self._dial()
        except TimeoutError as error:
            self._fail(TrackingListTimeoutError(self._reason("no connection in time")), error)
        except (OSError, ValueError, RefusedError, TrackingListError) as error:
            # ValueError: what stands for a host is no name of one.
            self._fail(TrackingListError(self._reason(error)), error)
        else:
            if wire.is_open:
                self._wire, self._is_new = wire, True
                wire.on_replies, wire.on_lost = self._take, self._lost
                self._flush()
            else:
                self._fail(TrackingListError(self._reason(_CLOSED)))
        finally:
            self._dialling = None

    def _lost(self, error: Exception | None) -> None:
        """The connection has ended by itself."""
        self._wire = None
        sent, self._sent = self._sent, []
        self._replies = []
        reason = TrackingListError(self._reason(error or _CLOSED))
        _fail(sent, reason, error)
        if self._waiting:
            self._connect()

    def _watch(self) -> None:
        """See to it that nobody waits for too long; one timer for all."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        due_at = self._next_due()
        if due_at is not None and due_at <= now:
            if not self._is_grace_over:
                self._is_grace_over = True
                self._timer = loop.call_later(_GRACE_S, self._watch)
                return
            self._expire(now)
            due_at = self._next_due()
        self._is_grace_over = False
        self._timer = None if due_at is None else loop.call_at(due_at, self._watch)

    def _next_due(self) -> float | None:
        """Return when the next caller, or the batch under way, will have waited for too long."""
        times = [
            call.give_up_at for call in (*self._sent, *self._waiting) if not call.replies.done()
        ]
        if self._sent:
            times.append(self._answer_due_at)
        return min(times, default=None)

    def _expire(self, now: float) -> None:
        reason = TrackingListTimeoutError(self._reason("no answer in time"))
        if self._sent and self._answer_due_at <= now:
            # Who came later would wait for the same server.
            self._fail(reason)
        else:
            # The connection was slow to make; that is no reason to drop it.
            _fail([call for call in self._sent if call.give_up_at <= now], reason)
            _fail([call for call in self._waiting if call.give_up_at <= now], reason)

    def _fail(self, reason: TrackingListError, cause: BaseException | None = None) -> None:
        """Give up all that is asked, and the connection."""
        calls = [*self._sent, *self._waiting]
        self._waiting.clear()
        self._hang_up()
        _fail(calls, reason, cause)

    def _hang_up(self) -> None:
        self._sent, self._replies = [], []
        if self._wire is not None:
            self._wire.drop()
            self._wire = None

    def _reason(self, what: object) -> str:
        return f"redis {self._name}: {what}"


def _fail(
    calls: Sequence[_Call], reason: TrackingListError, cause: BaseException | None = None
) -> None:
    for call in calls:
        if not call.replies.done():
            # One instance each: they collect the tracebacks of different callers.
            error = type(reason)(*reason.args)
            error.__cause__ = cause
            call.replies.set_exception(error)


def _is_wrong_server(reply: object) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith(_WRONG_SERVER)
