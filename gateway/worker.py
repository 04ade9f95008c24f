"""One worker process: an event loop with sessions, a tracking list and a downstream of its own.

Started by `supervisor`, which hands it the listening sockets, the shared memory and one end of a
socket pair (`control`) over which it learns the rest. It ends when it is told to, or when its
supervisor is gone; what is under way is finished first, within bounds.

A configuration that cannot be used on reload is logged and changes nothing. Any other exception
ends the process, and the supervisor replaces it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import uvloop

from gateway import wiring
from gateway.config import Config
from gateway.control import (
    Asked,
    Begin,
    Echo,
    Probed,
    Ready,
    Reload,
    Stop,
    Told,
    receive,
    receive_first,
    sent,
)
from gateway.core import answer
from gateway.core.handover import Client, HandOver
from gateway.desk import Desk
from gateway.door import Door
from gateway.edge.arrears import Arrears
from gateway.edge.breaker import Breaker
from gateway.edge.census import Census
from gateway.edge.journal import LogJournal
from gateway.edge.log import Log
from gateway.edge.metrics import Metrics
from gateway.edge.resolver import Resolver
from gateway.errors import ConfigError, DownstreamError, RelayOpenError
from gateway.faces.milter import MilterServer, serve_milter
from gateway.faces.smtp import SmtpSession
from gateway.faces.smtp_reception import Reception
from gateway.guard import Proof, Standing, probe
from gateway.ports import Downstream, History, OpenDownstream
from gateway.screening import Screening
from gateway.shared_memory import SharedMemory

DRAIN_S = 30.0
"""How long transactions under way may take to finish when we stop."""

_OPEN_RELAY = "the downstream relays for strangers; see `mailonce doctor`"
_COLLECT_AFTER_OBJECTS = 50_000
_CAPABILITIES_RETRY_S = 2.0
_LIST_RETRY_S = 0.5
_CUT_S = 1.0


class Worker:
    """The parts of one worker, and how they start, reload and stop."""

    def __init__(
        self,
        config: Config,
        proof: Proof,
        *,
        metrics: Metrics,
        log: Log,
        census: Census,
    ) -> None:
        """Put the parts together; nothing is opened yet.

        Args:
            config: in force.
            proof: what the open-relay guard knows of the downstream.
            metrics: to count in.
            log: to write to.
            census: of the sessions of all workers.

        Raises:
            ConfigError: a part cannot be made.
        """
        self._metrics = metrics
        self._census = census
        self._journal = LogJournal(log, metrics.count)
        self._resolver = Resolver()
        store = wiring.store_of(config)
        self._history: History = store
        self._breaker = Breaker(store, metrics.observe_store, complain=self._journal.complain)
        self._store = Arrears(self._breaker)
        self._is_open_relay = False
        self._doors: list[Door] = []
        self._milter: MilterServer | None = None
        self._asking: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._config = config
        self._connector = self._connector_of(config)
        self._desk = self._desk_of(config)
        self._reception = Reception(
            wiring.smtp_settings_of(config),
            current_desk=lambda: self._desk,
            capabilities=lambda: self._connector.capabilities,
            journal=self._journal,
            meter=metrics,
            census=census,
        )
        self.take_proof(proof)

    async def start(
        self, smtp: Sequence[socket.socket], milter: Sequence[socket.socket] = ()
    ) -> None:
        """Let sessions in."""
        loop = asyncio.get_running_loop()
        self._asking = loop.create_task(self._ask_capabilities())
        self._probing = loop.create_task(self._probe_list())
        # At the first session EHLO should be answered in full already, if the downstream is there.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._asking), 1.0)
        for listener in smtp:
            door = Door(
                listener,
                lambda: SmtpSession(self._reception, loop),
                lambda: self._census.is_ahead,
            )
            door.open()
            self._doors.append(door)
        if milter:
            self._milter = await serve_milter(
                milter,
                lambda: self._desk,
                self._metrics,
                wiring.milter_settings_of(self._config),
                self._config.listen.clients,
            )

    def reload(self, config: Config) -> None:
        """Go on with another configuration; sessions live on.

        Raises:
            ConfigError: a part cannot be made; the old one stays in force.
        """
        settings = wiring.smtp_settings_of(config)
        # A proxy that is believed now may bring strangers: then servers are vetted from now on.
        needs_vetting = wiring.needs_relay_probe(config)
        was_vetting = wiring.needs_relay_probe(self._config)
        if config.downstream != self._config.downstream or needs_vetting is not was_vetting:
            self._connector = self._connector_of(config)
            if self._asking is not None:
                self._asking.cancel()
            self._asking = asyncio.create_task(self._ask_capabilities())
        self._config = config
        self._desk = self._desk_of(config)
        self._reception.settings = settings
        self._census.most = config.limits.sessions
        self._census.most_per_client = config.limits.sessions_per_client
        if self._milter is not None:
            self._milter.settings = wiring.milter_settings_of(config)
            self._milter.allowed = tuple(config.listen.clients)

    def complain(self, event: str, reason: str) -> None:
        """Log that something is wrong (`Journal`)."""
        self._journal.complain(event, reason)

    def take_proof(self, proof: Proof) -> None:
        """Take over what the open-relay guard has found."""
        self._is_open_relay = proof.standing is Standing.OPEN
        self._reception.refusal = answer.NOT_PROVEN if self._is_open_relay else None
        self._connector.trust(proof.proven)

    async def tell(self, asked: Asked) -> Told:
        """Answer what our own tracking list knows of the past."""
        method = getattr(self._history, asked.method)
        return Told(asked.number, await method(*asked.arguments))

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Let nobody in, see transactions through, write what is to be written, and end."""
        for door in self._doors:
            door.close()
        self._reception.stop()
        closing = None if self._milter is None else asyncio.create_task(self._milter.close(drain_s))
        if not await self._reception.emptied(drain_s):
            self._reception.cut()
            await self._reception.emptied(_CUT_S)
        if closing is not None:
            await closing
        for task in (self._asking, self._probing):
            if task is not None:
                task.cancel()
        await self._store.close()
        self._resolver.close()

    def _desk_of(self, config: Config) -> Desk:
        screening = Screening(
            self._store, wiring.sealer_of(config), wiring.screening_settings_of(config)
        )
        return Desk(self._open, screening, self._journal, wiring.relay_settings_of(config))

    async def _open(self, client: Client) -> Downstream:
        """Open a downstream session in a client's name; its host name is looked up if handed on."""
        if self._is_open_relay:
            raise RelayOpenError(_OPEN_RELAY)
        if self._config.downstream.identity in (HandOver.XCLIENT, HandOver.XFORWARD):
            client = replace(client, name=await self._resolver.name_of(client.address))
        return await self._connector.open(client)

    def _connector_of(self, config: Config) -> wiring.Connector:
        """Return what opens sessions; where others reach us, each server is probed before."""
        if not wiring.needs_relay_probe(config):
            return wiring.connector_of(config, self._metrics)

        async def vet(open_downstream: OpenDownstream) -> None:
            if await probe(open_downstream, config.downstream.relay_probe) is Standing.OPEN:
                raise RelayOpenError(_OPEN_RELAY)

        return wiring.connector_of(config, self._metrics, vet)

    async def _probe_list(self) -> None:
        """Notice soon that a list that failed is back, and tell it what it missed.

        So no message has to wait for a list that may still be down.
        """
        while True:
            await asyncio.sleep(_LIST_RETRY_S)
            if not self._breaker.is_up:
                await self._breaker.probe()
            if self._breaker.is_up:
                await self._store.make_up()

    async def _ask_capabilities(self) -> None:
        """Learn what the downstream can do, as soon as it is there."""
        while True:
            try:
                await self._connector.ask_capabilities()
            except DownstreamError as error:
                self._journal.complain("downstream_unreachable", str(error))
                await asyncio.sleep(_CAPABILITIES_RETRY_S)
            else:
                return


async def _run(begin: Begin, channel: socket.socket) -> None:
    """Be a worker until told to stop."""
    config = begin.config
    memory = SharedMemory(config.worker_count, begin.memory)
    metrics = Metrics(memory.block(begin.index))
    log = wiring.log_of(config, metrics)
    log.adopt_libraries()
    census = Census(
        memory.parts(),
        begin.index,
        begin.census_key,
        most=config.limits.sessions,
        most_per_client=config.limits.sessions_per_client,
    )
    worker = Worker(config, begin.proof, metrics=metrics, log=log, census=census)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the terminal's goes to all of us
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    await worker.start(
        [socket.socket(fileno=descriptor) for descriptor in begin.smtp],
        [socket.socket(fileno=descriptor) for descriptor in begin.milter],
    )
    # What lives from here on is short-lived or for ever: no need to look at the rest again.
    gc.collect()
    gc.freeze()
    # Messages leave no circles behind; with a thousand sessions under way their objects alone set
    # the collector off at every turn (100 of 350 µs a message with its default of 700).
    gc.set_threshold(_COLLECT_AFTER_OBJECTS)
    reader, writer = await asyncio.open_connection(sock=channel)
    writer.write(sent(Ready()))
    listening = loop.create_task(_listen(reader, writer, worker))
    # Also if a fault of ours ends it: deaf, we would miss a probe that failed, and the end.
    listening.add_done_callback(lambda _: stopping.set())
    await stopping.wait()
    await worker.stop()
    log.close()
    if listening.done():
        listening.result()
    listening.cancel()


async def _listen(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, worker: Worker
) -> None:
    """Do what the supervisor says, until it says stop or is gone."""
    while True:
        match await receive(reader):
            case Reload(config):
                # The supervisor has tried this; but a file may have changed since.
                try:
                    worker.reload(config)
                except ConfigError as error:
                    worker.complain("configuration_unusable", "; ".join(error.problems))
            case Probed(proof):
                worker.take_proof(proof)
            case Echo() as echo:
                writer.write(sent(echo))
            case Asked() as asked:
                writer.write(sent(await worker.tell(asked)))
            case Stop() | None:
                return
            case _:
                continue


def main() -> None:
    """Run as a worker: ``python -m gateway.worker DESCRIPTOR``, only ever by `supervisor`."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    begin = cast("Begin", receive_first(channel))
    uvloop.run(_run(begin, channel))


if __name__ == "__main__":
    main()
