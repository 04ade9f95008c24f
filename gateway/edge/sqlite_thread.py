"""One thread that owns the SQLite file: what callers ask for together is one transaction.

The event loop never waits for the disk or for another process' lock. A caller waits as long as its
time-out and no longer; what it asked for may happen later all the same, and then its ``undo`` does,
too. What the operations mean may not live here.

Fails with `TrackingListError`; then the whole transaction of that caller, and of those who share
it, was taken back. The file is opened anew after any failure but a lock held by others.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from gateway.edge.sqlite_store import SqliteStore, is_busy
from gateway.errors import TrackingListError, TrackingListTimeoutError

T = TypeVar("T")

# A bound for how long one transaction holds the lock.
_BATCH_JOBS = 200
_MAX_DEBTS = 10_000


@dataclass(slots=True, eq=False)
class _Job:
    run: Callable[[SqliteStore], Any]
    undo: Callable[[SqliteStore, Any], None] | None
    result: asyncio.Future[Any]
    timer: asyncio.TimerHandle | None = None
    outcome: Any = None


class SqliteThread:
    """Runs operations on a store, many in one transaction."""

    def __init__(
        self,
        open_store: Callable[[], SqliteStore],
        name: str,
        timeout_s: float,
        idle_s: float,
    ) -> None:
        """Open nothing and start nothing yet.

        Args:
            open_store: called in the thread, again after failures; raises `OSError` or
                `sqlite3.Error`.
            name: of the file, for messages.
            timeout_s: how long a caller waits at most.
            idle_s: after which an empty transaction is made, for the heartbeat.
        """
        self._open_store = open_store
        self._name = name
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._store: SqliteStore | None = None
        self._debts: deque[Callable[[SqliteStore], None]] = deque()
        self._is_closed = False

    def run(
        self,
        operation: Callable[[SqliteStore], T],
        undo: Callable[[SqliteStore, T], None] | None = None,
    ) -> asyncio.Future[T]:
        """Have an operation run in the next transaction.

        Args:
            operation: what to do.
            undo: takes its outcome back if nobody waits for it any more; with one, an operation
                is left out if nobody waits when its turn comes.

        Returns:
            What will hold its outcome, or `TrackingListError`.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._is_closed:
            future.set_exception(self._error("closed"))
            return future
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, args=(loop,), daemon=True)
            self._thread.start()
        job = _Job(operation, undo, future)
        job.timer = loop.call_later(self._timeout_s, self._give_up, job)
        self._jobs.put(job)
        return future

    def owe(self, operation: Callable[[SqliteStore], None]) -> None:
        """Have an operation run once the store works again; nobody waits for it."""
        if len(self._debts) < _MAX_DEBTS:
            self._debts.append(operation)

    async def close(self, last: Callable[[SqliteStore], None]) -> None:
        """Run one last operation and close the file; waits no longer than a call does."""
        if self._thread is not None and not self._is_closed:
            goodbye = self.run(last)
            self._is_closed = True
            self._jobs.put(None)
            await asyncio.wait({goodbye})
            if goodbye.exception() is None:
                self._thread.join(self._timeout_s)
        self._is_closed = True

    def _give_up(self, job: _Job) -> None:
        if not job.result.done():
            job.result.set_exception(self._error("no answer in time", is_timeout=True))

    def _deliver(self, jobs: Sequence[_Job], failure: Exception | None) -> None:
        """Hand out the outcome of a transaction; runs in the event loop."""
        for job in jobs:
            if job.timer is not None:
                job.timer.cancel()
            if job.result.done():
                if failure is None and job.undo is not None:
                    self.owe(partial(_undone, job.undo, job.outcome))
            elif failure is None:
                job.result.set_result(job.outcome)
            else:
                job.result.set_exception(self._failure(failure))
        if failure is None and self._debts and not self._is_closed:
            self._pay()

    def _pay(self) -> None:
        some = [self._debts.popleft() for _ in range(min(len(self._debts), _BATCH_JOBS))]

        def paid(future: asyncio.Future[None]) -> None:
            if future.cancelled() or future.exception() is not None:
                self._debts.extend(some)

        self.run(partial(_all, some)).add_done_callback(paid)

    def _failure(self, cause: Exception) -> Exception:
        if not isinstance(cause, (sqlite3.Error, OSError)):
            return cause
        is_timeout = isinstance(cause, sqlite3.Error) and is_busy(cause)
        error = self._error(cause, is_timeout=is_timeout)
        error.__cause__ = cause
        return error

    def _error(self, what: object, *, is_timeout: bool = False) -> TrackingListError:
        kind = TrackingListTimeoutError if is_timeout else TrackingListError
        return kind(f"sqlite {self._name}: {what}")

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work for one event loop until told to end; runs in the thread."""
        is_over = False
        while not is_over:
            jobs, is_over = self._next_jobs()
            # A claim that nobody waits for any more need not be made.
            wanted = [job for job in jobs if not (job.undo and job.result.done())]
            failure = self._transact(wanted)
            try:
                loop.call_soon_threadsafe(self._deliver, wanted, failure)
            except RuntimeError:
                is_over = True  # the loop is closed: nobody waits
        if self._store is not None:
            self._store.close()

    def _next_jobs(self) -> tuple[list[_Job], bool]:
        """Wait for something to do, or until the heart has to beat; say if it is the end."""
        jobs: list[_Job] = []
        try:
            job = self._jobs.get(timeout=self._idle_s)
            while job is not None:
                jobs.append(job)
                if len(jobs) == _BATCH_JOBS:
                    return jobs, False
                job = self._jobs.get_nowait()
        except Empty:
            return jobs, False
        return jobs, True

    def _transact(self, jobs: Sequence[_Job]) -> Exception | None:
        try:
            if self._store is None:
                self._store = self._open_store()
            self._store.begin()
            for job in jobs:
                job.outcome = job.run(self._store)
            self._store.commit()
        except Exception as error:  # noqa: BLE001 – handed on to those who wait
            self._recover(error)
            return error
        return None

    def _recover(self, error: Exception) -> None:
        if self._store is None:
            return
        try:
            self._store.rollback()
            if isinstance(error, sqlite3.Error) and not is_busy(error):
                self._store.close()
                self._store = None
        except sqlite3.Error:
            self._store = None


def _undone(undo: Callable[[SqliteStore, Any], None], outcome: object, store: SqliteStore) -> None:
    undo(store, outcome)


def _all(operations: Sequence[Callable[[SqliteStore], None]], store: SqliteStore) -> None:
    for operation in operations:
        operation(store)
