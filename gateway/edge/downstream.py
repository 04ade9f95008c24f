"""The servers that mail is passed to: which one, and whether it is there.

Servers are tried in order. One that could not be reached is tried last for a while, longer each
time, so that a dead first server does not cost every client its connect time-out. Talking to a
server is the business of `downstream_session`. Fails with `UnreachableError` if no server took a
session, and with `IdentityError` if one did not take over the client's identity.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.core.capability import NOTHING, Capabilities
from gateway.core.handover import Client
from gateway.edge.downstream_session import DownstreamSession, ServerAddress, SessionSettings
from gateway.edge.downstream_wire import DownstreamWire
from gateway.errors import DownstreamError, IdentityError, UnprovenError, UnreachableError
from gateway.ports import Observe, OpenDownstream

_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 60.0


Vet = Callable[[OpenDownstream], Awaitable[None]]
"""Asked before the first session in a client's name with each server; raises what forbids it."""


@dataclass(frozen=True, slots=True)
class _Health:
    """When a server is trusted again, and how long the next backoff is."""

    shunned_until: float = 0.0
    backoff_s: float = _FIRST_BACKOFF_S


class DownstreamConnector:
    """Opens sessions, one per client.

    Attributes:
        capabilities: last known ones of a server; nothing before the first session.
    """

    def __init__(
        self,
        servers: Sequence[ServerAddress],
        settings: SessionSettings,
        observe: Observe,
        on_health: Callable[[bool], None],
        vet: Vet | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            servers: in order of preference.
            settings: how to talk to them.
            observe: told each command's outcome.
            on_health: told after each attempt whether any server took the session.
            vet: whether a server may be used at all; None to trust them.
        """
        self._settings = settings
        self._observe = observe
        self._on_health = on_health
        self._health = dict.fromkeys(servers, _Health())
        self._vet = vet
        self._vetted: set[ServerAddress] = set()
        self._vetting: dict[ServerAddress, asyncio.Task[None]] = {}
        self.capabilities: Capabilities = NOTHING

    async def open(self, client: Client) -> DownstreamSession:
        """Open a session in the name of a client.

        Raises:
            UnprovenError: no server may be used, and one did not answer the probe.
            UnreachableError: no server took a session.
            IdentityError: a server did not take over the client's identity.
        """
        return await self._first(client)

    def trust(self, places: Sequence[int]) -> None:
        """Take servers as vetted, by their place in the configuration."""
        self._vetted.update(server for i, server in enumerate(self._health) if i in places)

    def openers(self) -> Sequence[OpenDownstream]:
        """Return what opens a session with each server, whether it was vetted or not."""
        return [partial(self._connect, server) for server in self._health]

    async def ask_capabilities(self) -> None:
        """Learn the capabilities without a client; no mail may follow.

        Raises:
            UnreachableError: no server took a session.
        """
        session = await self._first(None)
        await session.close(politely=True)

    async def _first(self, client: Client | None) -> DownstreamSession:
        """Return a session with the first server that takes one."""
        reasons = []
        kind = UnreachableError
        now = time.monotonic()
        in_order = sorted(self._health, key=lambda server: self._health[server].shunned_until > now)
        for server in in_order:
            try:
                if client is not None:
                    await self._let_through(server)
                session = await self._connect(server, client)
            except IdentityError:
                self._on_health(True)
                raise
            except UnreachableError as error:
                self._shun(server)
                reasons.append(str(error))
                if isinstance(error, UnprovenError):
                    kind = UnprovenError  # it will not pass by itself
            else:
                self._health[server] = _Health()
                self._on_health(True)
                if session.announced != NOTHING:
                    self.capabilities = session.announced
                return session
        self._on_health(False)
        raise kind("; ".join(reasons))

    async def _connect(self, server: ServerAddress, client: Client | None) -> DownstreamSession:
        """Connect, greet, begin TLS, hand over the identity: in this order.

        Raises:
            UnreachableError: no session, for whatever reason.
            IdentityError: the server did not take over the client's identity.
        """
        try:
            return await self._greeted(server, client)
        except IdentityError:
            raise
        except (OSError, DownstreamError) as error:
            text = str(error) or type(error).__name__
            raise UnreachableError(text if str(server) in text else f"{server}: {text}") from error

    async def _greeted(self, server: ServerAddress, client: Client | None) -> DownstreamSession:
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        wire = DownstreamWire(loop)
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                if server.path:
                    await loop.create_unix_connection(lambda: wire, server.path)
                else:
                    await loop.create_connection(lambda: wire, server.host, server.port)
        except OSError:
            self._observe("connect", "lost", time.monotonic() - started)
            raise
        session = DownstreamSession(wire, server, self._settings, self._observe)
        try:
            await session.greet(client, started)
        except BaseException:
            wire.abort()
            raise
        return session

    async def _let_through(self, server: ServerAddress) -> None:
        """Have a server vetted that was not yet; whoever comes meanwhile waits for the same answer.

        Raises:
            DownstreamError: it may not be used, or not now.
        """
        if self._vet is None or server in self._vetted:
            return
        vetting = self._vetting.get(server)
        if vetting is None:
            vetting = asyncio.create_task(self._have_vetted(server, self._vet))
            self._vetting[server] = vetting
        await asyncio.shield(vetting)

    async def _have_vetted(self, server: ServerAddress, vet: Vet) -> None:
        try:
            await vet(partial(self._connect, server))
            self._vetted.add(server)
        finally:
            del self._vetting[server]

    def _shun(self, server: ServerAddress) -> None:
        """Try a server last for a while."""
        backoff_s = self._health[server].backoff_s
        self._health[server] = _Health(
            time.monotonic() + backoff_s, min(2 * backoff_s, _LONGEST_BACKOFF_S)
        )
