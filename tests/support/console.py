"""The HTTP face over a real tracking list in memory, with counters and journal that tests fill."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gateway.core.policy import Action, Sighting, Verdict
from gateway.core.readiness import Condition, Readiness, readiness
from gateway.core.report import Entry, Keep, Report, entries, queue_id_of
from gateway.core.unique_id import Identity, Sealer
from gateway.edge.activity import ActivityRing
from gateway.edge.metrics import Metrics
from gateway.edge.metrics_exposition import exposition, merged
from gateway.edge.tracking_memory import MemoryTrackingList
from gateway.errors import TrackingListError
from gateway.faces.http import HttpFace, HttpSettings, Sources
from gateway.faces.http_guard import Access
from gateway.ports import Record
from tests.support.report import NOW_S, outcome_of, report_of

WELL = Condition(
    is_downstream_up=True, has_probe_failed=False, is_list_up=True, defers_unchecked=False
)


class _Switchable(MemoryTrackingList):
    """A list that can be made not to answer."""

    is_dead = False

    async def latest(self, limit: int) -> Sequence[Entry]:
        """See `History.latest`."""
        self._fail()
        return await super().latest(limit)

    async def trail(self, identity: bytes, limit: int) -> Sequence[Entry]:
        """See `History.trail`."""
        self._fail()
        return await super().trail(identity, limit)

    def _fail(self) -> None:
        if self.is_dead:
            raise TrackingListError("dead")


@dataclass
class Console:
    """What the face under test shows.

    Attributes:
        condition: of the world; set it.
        metrics: counters; count in them.
        tracking_list: filled by `accept`; the time is that of the reports, whatever the date.
        port: where it listens.
    """

    condition: Condition = WELL
    metrics: Metrics = field(default_factory=Metrics)
    tracking_list: _Switchable = field(default_factory=lambda: _Switchable(now=lambda: NOW_S))
    port: int = 0
    sealer: Sealer = field(default_factory=lambda: Sealer(b"key"))

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def accept(
        self,
        identity: bytes,
        *forward_paths: bytes,
        verdict: Verdict = Verdict.NEW,
        action: Action = Action.RELAYED,
        first: Sighting | None = None,
        **parts: object,
    ) -> Report:
        """Have a message taken by the downstream, counted, remembered and kept in the journal."""
        keys = self.sealer.unique_ids(Identity(b"id", identity), forward_paths)
        outcomes = [
            outcome_of(verdict, action, forward_path=path, first=first, key=key)
            for path, key in zip(forward_paths, keys, strict=True)
        ]
        report = report_of(*outcomes, identity=identity, **parts)  # type: ignore[arg-type]
        self.metrics.count(report)
        note = queue_id_of(report.reply)
        records = [Record(key, int(report.at_s), b"fingerprint", 1, 1e6, note) for key in keys]
        await self.tracking_list.confirm(records, entries(report, Keep.ALL))
        return report

    def face(self, access: Access) -> HttpFace:
        """Return the face over all this."""
        ring = ActivityRing(lambda: merged([self.metrics.values]))

        def read_readiness() -> Readiness:
            return readiness(self.condition)

        async def look() -> None:
            """See nothing new."""

        sources = Sources(
            metrics=lambda accept: exposition(merged([self.metrics.values]), accept),
            look=look,
            readiness=read_readiness,
            activity=ring.activity,
            history=self.tracking_list,
            sealer=self.sealer,
        )
        return HttpFace(sources, HttpSettings(access, "mx.example.org", Keep.ALL))


@contextlib.asynccontextmanager
async def serving(console: Console, access: Access) -> AsyncIterator[Console]:
    """Serve on a loopback port, whatever the access rules take it for."""
    listener = socket.create_server(("127.0.0.1", 0))
    console.port = listener.getsockname()[1]
    face = console.face(access)
    await face.start(listener)
    try:
        yield console
    finally:
        await face.stop()


@contextlib.contextmanager
def serving_in_thread(
    console: Console, access: Access, fill: Callable[[Console], Awaitable[None]]
) -> Iterator[Console]:
    """Serve from a thread with a loop of its own, for clients that block; fill it before."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        await fill(console)
        async with serving(console, access):
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(30), "the console did not come up"
        yield console
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(30)
        loop.close()
