"""``mailonce serve``: open, probe, start, watch, reload, drain, stop.

One supervisor process holds the listening sockets, keeps the workers, asks the open-relay guard and
serves HTTP; mail flows through the workers alone. Fails with `ConfigError` for what a postmaster
can put right, and with `RelayOpenError` if the downstream relays for strangers.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import uvloop

from gateway import __version__, wiring
from gateway.config import Config, listening_at
from gateway.config.place import StoreScheme
from gateway.edge.activity import SAMPLE_EVERY_S, ActivityRing
from gateway.edge.journal import LogJournal
from gateway.edge.log import Log
from gateway.edge.metrics import Metrics
from gateway.edge.metrics_exposition import Totals, exposition, merged
from gateway.errors import ConfigError, IdentityError, RelayOpenError, UnreachableError
from gateway.faces.http import HttpFace, HttpSettings, Sources
from gateway.faces.http_guard import Access
from gateway.guard import Proof, Standing, probe_each
from gateway.inquiry import Inquiry
from gateway.listener import endpoint_of, handed_over, open_all, shown
from gateway.lookout import Lookout
from gateway.shared_memory import SharedMemory
from gateway.supervisor import Supervisor
from gateway.systemd import notify

_CENSUS_KEY_OCTETS = 16
_PROBE_PERIOD_S = 3600.0
_PROBE_AGAIN_S = 60.0
_TICK_S = 5.0
_PROBE_TICK_S = 1.0


class Service:
    """Everything that runs while we serve."""

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        opened: Mapping[str, list[socket.socket]] | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            config: checked.
            load: reads the configuration anew, for SIGHUP.
            opened: sockets that listen where the configuration says already, as `handed_over` names
                them; None for those of systemd, if there are any.
        """
        self._opened = opened
        self._config = config
        self._load = load
        self._memory = SharedMemory(config.worker_count)
        self._metrics = Metrics(self._memory.block(config.worker_count))
        self._log: Log = wiring.log_of(config, self._metrics)
        self._journal = LogJournal(self._log, self._metrics.count)
        self._connector = wiring.connector_of(config, self._metrics)
        self._lookout = Lookout(config, self._connector, self._metrics, self._journal.complain)
        # Any other list than one in memory can be asked directly.
        is_memory = config.store.url.scheme is StoreScheme.MEMORY
        self._inquiry = Inquiry() if is_memory else None
        self._recent = ActivityRing(self._totals)
        self._http: HttpFace | None = None
        self._stopping = asyncio.Event()
        self._sockets: list[socket.socket] = []
        self._smtp: list[socket.socket] = []
        self._supervisor: Supervisor | None = None
        self._certificates = _changed_at(config)
        self._probing: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ConfigError: something cannot be had as configured.
            RelayOpenError: the downstream relays for strangers.
        """
        self._log.adopt_libraries()
        wiring.smtp_settings_of(self._config)  # told before we start, if a certificate is unusable
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        milter = await self._open()
        supervisor = await self._start(milter)
        watching = [loop.create_task(self._watch()), loop.create_task(self._probe_for_ever())]
        await self._stopping.wait()
        for task in (*watching, *self._reloads):
            task.cancel()
        await self._end(supervisor)

    async def _open(self) -> list[socket.socket]:
        """Open all listening sockets, serve HTTP, and return those of the milter."""
        inherited = handed_over(os.environ) if self._opened is None else self._opened
        smtp = inherited.get("smtp") or open_all("listen.smtp", self._config.listen.smtp)
        milter = inherited.get("milter") or open_all("listen.milter", self._config.listen.milter)
        self._smtp, self._sockets = smtp, [*smtp, *milter]
        self._config = listening_at(self._config, [endpoint_of(listener) for listener in smtp])
        await self._serve_http(inherited.get("http"))
        return milter

    async def _start(self, milter: Sequence[socket.socket]) -> Supervisor:
        """Prove the downstream where that is needed, and start the workers."""
        proof = await self._first_probe()
        self._lookout.standing = proof.standing
        self._supervisor = Supervisor(
            self._config,
            proof,
            smtp=self._smtp,
            milter=milter,
            memory=self._memory,
            census_key=secrets.token_bytes(_CENSUS_KEY_OCTETS),
            journal=self._journal,
            metrics=self._metrics,
            inquiry=self._inquiry,
        )
        await self._supervisor.start()
        self._lookout.is_starting = False
        self._say_started(self._sockets)
        return self._supervisor

    async def _end(self, supervisor: Supervisor) -> None:
        """Let nobody in any more, and wait for what is under way."""
        notify("STOPPING=1")
        self._lookout.is_stopping = True
        self._log.logger.info("stopping")
        for listener in self._sockets:
            listener.close()
        await supervisor.stop()
        if self._http is not None:
            await self._http.stop()
        await self._lookout.close()
        self._log.logger.info("stopped")
        self._log.close()

    @property
    def is_stopping(self) -> bool:
        """Say whether it was told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Have `run` come to its end, as SIGTERM does."""
        self._stopping.set()

    async def _serve_http(self, inherited: Sequence[socket.socket] | None) -> None:
        """Serve metrics, health and console, if asked to."""
        endpoint = self._config.listen.http
        if inherited is None and endpoint is None:
            return
        listener, *_ = inherited or open_all("listen.http", [endpoint] if endpoint else [])
        sources = Sources(
            metrics=lambda accept: exposition(self._totals(), accept),
            look=lambda: self._lookout.look(is_asked=True),
            readiness=self._lookout.readiness,
            activity=self._recent.activity,
            history=self._inquiry or self._lookout.store,
            sealer=wiring.sealer_of(self._config),
        )
        self._http = HttpFace(sources, _http_settings_of(self._config, listener))
        await self._http.start(listener)

    def _totals(self) -> Totals:
        return merged(self._memory.blocks())

    async def _first_probe(self) -> Proof:
        """Ask the open-relay guard, where one is needed.

        Raises:
            RelayOpenError: the downstream relays for strangers.
        """
        if not wiring.needs_relay_probe(self._config):
            return Proof(Standing.SAFE)
        proof = await self._probe()
        if proof.standing is Standing.OPEN:
            recipient = self._config.downstream.relay_probe
            raise RelayOpenError(
                f"downstream.relay_probe: the downstream accepts {recipient} from a stranger, so"
                " that behind us it is an open relay; take our address out of its mynetworks"
            )
        return proof

    async def _probe(self) -> Proof:
        """Ask the open-relay guard; count and log what it finds."""
        try:
            proof = await probe_each(self._connector.openers(), self._config.downstream.relay_probe)
        except IdentityError as error:
            self._journal.complain("identity_not_handed_over", str(error))
            return Proof(Standing.UNPROVEN)
        except UnreachableError as error:
            self._journal.complain(error.event, str(error))
            return Proof(Standing.UNPROVEN)
        self._metrics.relay_probe_failed(proof.standing is Standing.OPEN)
        if proof.standing is Standing.OPEN:
            self._journal.complain(
                "relay_probe_failed", f"{self._config.downstream.relay_probe} was accepted"
            )
        return proof

    async def _probe_for_ever(self) -> None:
        """Ask again every hour, every minute while the answer is not the right one.

        And at once when a downstream is there of which nothing is known yet: mail waits for it.
        """
        probed_s = time.monotonic()
        was_up = self._lookout.standing is not Standing.UNPROVEN
        while True:
            await asyncio.sleep(_PROBE_TICK_S)
            is_back = self._lookout.is_downstream_up and not was_up
            was_up = self._lookout.is_downstream_up
            # Looked at each time: a reload may have found out otherwise in between.
            period_s = (
                _PROBE_PERIOD_S if self._lookout.standing is Standing.SAFE else _PROBE_AGAIN_S
            )
            if is_back and self._lookout.standing is Standing.UNPROVEN:
                period_s = 0.0
            if time.monotonic() - probed_s >= period_s and wiring.needs_relay_probe(self._config):
                await self._probe_again()
                probed_s = time.monotonic()

    async def _probe_again(self) -> None:
        """Ask the guard and tell everybody; a downstream that is away proves nothing new."""
        asked = self._connector
        proof = await self._probe()
        # Nor does an answer of servers that a reload has replaced meanwhile: it asks by itself.
        if proof.standing is not Standing.UNPROVEN and self._connector is asked:
            self._spread(proof)

    def _spread(self, proof: Proof) -> None:
        """Tell everybody what is known of the downstream."""
        self._lookout.standing = proof.standing
        if self._supervisor is not None:
            self._supervisor.take_proof(proof)

    async def _watch(self) -> None:
        """Look after what changes by itself: certificates, the list, the downstream."""
        sampled_at = time.monotonic()
        while True:
            await self._lookout.look()
            if time.monotonic() - sampled_at >= SAMPLE_EVERY_S:
                sampled_at = time.monotonic()
                self._recent.take_sample()
            changed_at = _changed_at(self._config)
            if changed_at != self._certificates:
                self._certificates = changed_at
                await self._reload()
            notify("WATCHDOG=1")
            await asyncio.sleep(_TICK_S)

    def _hang_up(self) -> None:
        """Do what SIGHUP asks for, unless it is too late for that."""
        if self._stopping.is_set():
            return
        reload = asyncio.get_running_loop().create_task(self._reload())
        self._reloads.add(reload)
        reload.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        """Read configuration and certificates anew; what cannot be used changes nothing.

        Told as done when the workers have it: whoever reloads and then sends relies on that.
        """
        if self._supervisor is None:
            return  # we are starting, from the same file
        async with self._reloading:
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                endpoints = [endpoint_of(listener) for listener in self._smtp]
                config = listening_at(self._load(), endpoints)
                wiring.smtp_settings_of(config)
            except ConfigError as error:
                self._journal.complain("configuration_unusable", "; ".join(error.problems))
            else:
                self._go_on_with(config, self._supervisor)
                await self._supervisor.heard()
                self._log.logger.info("reloaded")
            notify("READY=1")

    def _go_on_with(self, config: Config, supervisor: Supervisor) -> None:
        """Put another configuration in force, here and in the workers."""
        for key in _fixed(self._config, config):
            self._journal.complain("restart_needed", f"{key} takes effect after a restart")
        self._config = config
        self._connector = wiring.connector_of(config, self._metrics)
        self._lookout.reload(config, self._connector)
        supervisor.reload(config)
        if self._http is not None:
            self._http.reload(
                hostname=config.own_hostname,
                keep=config.journal.keep,
                sealer=wiring.sealer_of(config),
            )
        if wiring.needs_relay_probe(config):
            self._probing = asyncio.get_running_loop().create_task(self._probe_again())
        else:
            # As at a start: what a probe found that is not wanted any more holds nobody up.
            self._metrics.relay_probe_failed(False)
            self._spread(Proof(Standing.SAFE))

    def _say_started(self, listeners: Sequence[socket.socket]) -> None:
        config = self._config
        notify(f"READY=1\nSTATUS=serving with {config.worker_count} workers")
        self._log.logger.info(
            "serving",
            version=__version__,
            hostname=config.own_hostname,
            listen=" ".join(shown(listener) for listener in listeners),
            downstream=" ".join(map(str, config.downstream.servers)),
            store=str(config.store.url),
            workers=config.worker_count,
            action=config.dedup.action,
            match=config.dedup.match,
        )


def serve(config: Config, load: Callable[[], Config]) -> None:
    """Serve until told to stop.

    Args:
        config: checked.
        load: reads the configuration anew.

    Raises:
        ConfigError: something cannot be had as configured.
        RelayOpenError: the downstream relays for strangers.
    """

    async def run() -> None:
        await Service(config, load).run()

    uvloop.run(run())


def _changed_at(config: Config) -> tuple[float, ...]:
    """Return when certificate and key were changed; nothing for what is not there."""
    times = []
    for path in (config.tls.certificate, config.tls.key):
        if path is not None:
            with suppress(OSError):
                times.append(path.stat().st_mtime)
    return tuple(times)


def _fixed(old: Config, new: Config) -> Iterator[str]:
    """Name what has changed and cannot change while we run."""
    if old.worker_count != new.worker_count:
        yield "workers"
    for key in ("smtp", "milter", "http", "http_token"):
        if getattr(old.listen, key) != getattr(new.listen, key):
            yield f"listen.{key}"
    for key in ("url", "timeout"):
        if getattr(old.store, key) != getattr(new.store, key):
            yield f"store.{key}"
    if old.journal.entries != new.journal.entries:
        yield "journal.entries"
    if old.log != new.log:
        yield "log"


def _http_settings_of(config: Config, listener: socket.socket) -> HttpSettings:
    """Return how browsers and scrapers are served."""
    access = Access(
        is_loopback=endpoint_of(listener).is_local,
        token=config.listen.http_token.get_secret_value(),
    )
    return HttpSettings(access, config.own_hostname, config.journal.keep)
