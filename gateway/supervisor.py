"""The worker processes: started, replaced when one dies, told what changes, stopped.

Fails with `ConfigError` if the first start of a worker does not succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gateway.config import Config
from gateway.control import Begin, Echo, Message, Probed, Ready, Reload, Stop, Told, receive, sent
from gateway.edge.census import clear
from gateway.edge.journal import LogJournal
from gateway.edge.metrics import Metrics
from gateway.errors import ConfigError
from gateway.guard import Proof
from gateway.inquiry import Inquiry
from gateway.shared_memory import SharedMemory
from gateway.worker import DRAIN_S

_START_TIMEOUT_S = 60.0
_FIRST_STARTS = 3
_KILL_S = 5.0
# A worker at work answers in milliseconds. One that does not is not worth holding up an operator.
_ECHO_TIMEOUT_S = 5.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_STABLE_S = 10.0


@dataclass(slots=True, eq=False)
class _Place:
    """Where a worker works; the process in it may change.

    Attributes:
        index: of the worker.
        process: the present one.
        writer: to it, from when it lets sessions in until it ends.
        has_heard: whether it is up to date with what it was told, as far as anybody asks.
    """

    index: int
    process: asyncio.subprocess.Process | None = None
    writer: asyncio.StreamWriter | None = None
    has_heard: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Keeps as many workers as are wanted."""

    def __init__(  # noqa: PLR0913 - the wiring of a process; each is one part
        self,
        config: Config,
        proof: Proof,
        *,
        smtp: Sequence[socket.socket],
        milter: Sequence[socket.socket],
        memory: SharedMemory,
        census_key: bytes,
        journal: LogJournal,
        metrics: Metrics,
        inquiry: Inquiry | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            config: in force.
            proof: what the open-relay guard knows of the downstream.
            smtp: listening sockets.
            milter: likewise.
            memory: shared with the workers.
            census_key: see `Census`.
            journal: for complaints.
            metrics: the supervisor's own.
            inquiry: shall be answered by the worker, where there is only one.
        """
        self._config = config
        self._proof = proof
        self._smtp = tuple(listener.fileno() for listener in smtp)
        self._milter = tuple(listener.fileno() for listener in milter)
        self._memory = memory
        self._census_key = census_key
        self._journal = journal
        self._metrics = metrics
        self._inquiry = inquiry
        self._hearing: set[asyncio.Task[None]] = set()
        self._places = [_Place(index) for index in range(memory.workers)]
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    @property
    def alive(self) -> int:
        """Count the workers that let sessions in."""
        return sum(place.writer is not None for place in self._places)

    async def start(self) -> None:
        """Start all workers.

        Raises:
            ConfigError: one did not come up; its own log lines say why.
        """
        started = await asyncio.gather(*(self._start_first(place) for place in self._places))
        if not all(started):
            await self.stop()
            raise ConfigError(("workers: a worker process did not start",))
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(place)) for place in self._places]
        self._metrics.workers_alive(self.alive)

    def reload(self, config: Config) -> None:
        """Have all workers go on with another configuration."""
        if config.downstream != self._config.downstream:
            self._proof = replace(self._proof, proven=())
        self._config = config
        self._tell(Reload(config))

    def take_proof(self, proof: Proof) -> None:
        """Tell all workers what the open-relay guard has found."""
        self._proof = proof
        self._tell(Probed(proof))

    async def heard(self) -> None:
        """Wait until the workers have done what they were told so far; but not for long."""
        told = [place for place in self._places if place.writer is not None]
        for place in told:
            place.has_heard.clear()
        self._tell(Echo())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ECHO_TIMEOUT_S):
                for place in told:
                    await place.has_heard.wait()

    async def stop(self) -> None:
        """Have all workers finish, and wait for that; one that does not is killed in the end."""
        self._stopping.set()
        self._tell(Stop())
        processes = [place.process for place in self._places if place.process is not None]
        waits = [asyncio.create_task(process.wait()) for process in processes]
        if waits:
            await asyncio.wait(waits, timeout=DRAIN_S + _KILL_S)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*waits)
        for keeper in self._keepers:
            keeper.cancel()

    def _tell(self, message: Message) -> None:
        for place in self._places:
            if place.writer is not None and not place.writer.is_closing():
                place.writer.write(sent(message))

    async def _start_first(self, place: _Place) -> bool:
        """Start a worker for the first time; say whether it came up.

        One that was killed has nothing to say about the configuration, and gets another chance;
        clients are served by the others already.
        """
        for _ in range(_FIRST_STARTS):
            if await self._start(place):
                return True
            if self._stopping.is_set() or not _was_killed(place.process):
                return False
            self._journal.complain("worker_died", f"worker {place.index} was killed at its start")
            self._clean(place.index)
        return False

    async def _start(self, place: _Place) -> bool:
        """Start a worker in its place; say whether it came up."""
        try:
            place.process, channel = await self._spawned()
        except OSError as error:
            reason = f"worker {place.index} cannot be started: {error}"
            self._journal.complain("worker_died", reason)
            return False
        reader, writer = await asyncio.open_connection(sock=channel)
        config, proof = self._config, self._proof
        begin = Begin(
            config,
            proof,
            place.index,
            self._smtp,
            self._milter,
            self._memory.descriptor,
            self._census_key,
        )
        writer.write(sent(begin))
        if not await _becomes_ready(place.process, reader):
            writer.close()
            with contextlib.suppress(ProcessLookupError):
                place.process.kill()
            return False
        place.writer = writer
        hearing = asyncio.create_task(self._hear(place, reader, writer))
        self._hearing.add(hearing)
        hearing.add_done_callback(self._hearing.discard)
        # It has not heard what the others were told while it started.
        if self._config is not config:
            writer.write(sent(Reload(self._config)))
        if self._proof is not proof:
            writer.write(sent(Probed(self._proof)))
        return True

    async def _spawned(self) -> tuple[asyncio.subprocess.Process, socket.socket]:
        """Return the process of a new worker, and our end of the channel to it.

        Raises:
            OSError: the machine has no memory, process or descriptor to spare. That may well be so
                when a worker has just been killed for want of memory.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "gateway.worker",
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(), self._memory.descriptor, *self._smtp, *self._milter),
                    stdin=asyncio.subprocess.DEVNULL,
                )
            except BaseException:
                ours.close()
                raise
        return process, ours

    async def _hear(
        self, place: _Place, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Take what a worker says, until it is gone."""
        if self._inquiry is not None:
            self._inquiry.attach(writer)
        while (message := await receive(reader)) is not None:
            if isinstance(message, Echo):
                place.has_heard.set()
            elif isinstance(message, Told) and self._inquiry is not None:
                self._inquiry.take(message)
        place.has_heard.set()
        if self._inquiry is not None:
            self._inquiry.detach(writer)

    async def _keep(self, place: _Place) -> None:
        """Replace the worker in a place whenever it dies."""
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while place.process is not None:
            began = loop.time()
            code = await place.process.wait()
            if place.writer is not None:
                place.writer.close()
                place.writer = None
            if self._stopping.is_set():
                return
            self._journal.complain("worker_died", f"worker {place.index} ended with code {code}")
            self._clean(place.index)
            pause_s = _FIRST_PAUSE_S if loop.time() - began > _STABLE_S else pause_s
            while True:
                await asyncio.sleep(pause_s)
                if self._stopping.is_set():
                    return
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                if await self._start(place):
                    break
            if self._stopping.is_set():
                self._tell(Stop())
            self._metrics.worker_restarted()
            self._metrics.workers_alive(self.alive)

    def _clean(self, index: int) -> None:
        """Take what held only while a worker lived out of the shared memory."""
        Metrics(self._memory.block(index)).forget_present()
        clear(self._memory.part(index))
        self._metrics.workers_alive(self.alive)


async def _becomes_ready(process: asyncio.subprocess.Process, reader: asyncio.StreamReader) -> bool:
    """Wait until a worker lets sessions in; False if it ends before that, or takes too long."""
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            if isinstance(await receive(reader), Ready):
                return True
            await process.wait()
    except TimeoutError:
        pass
    return False


def _was_killed(process: asyncio.subprocess.Process | None) -> bool:
    """Say whether a process ended by a signal that was not ours."""
    return process is not None and process.returncode is not None and process.returncode < 0
