"""The servers that mail is passed to: which one, and whether it is there.

Servers are tried in order. One that could not be reached is tried last for a while, longer each
time, so that a dead first server does not cost every client its connect time-out. Talking to a
server is the business of `downstream_session`. Fails with `UnreachableError` if no server took a
session, and with `IdentityError` if one did not take over the client's identity.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.core.capability import NOTHING, Capabilities
from gateway.core.handover import Client
from gateway.edge.downstream_session import DownstreamSession, ServerAddress, SessionSettings
from gateway.edge.downstream_wire import DownstreamWire
from gateway.errors import DownstreamError, IdentityError, UnreachableError
from gateway.ports import Observe

_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 60.0


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
    ) -> None:
        """Open nothing yet.

        Args:
            servers: in order of preference.
            settings: how to talk to them.
            observe: told each command's outcome.
            on_health: told after each attempt whether any server took the session.
        """
        self._settings = settings
        self._observe = observe
        self._on_health = on_health
        self._health = dict.fromkeys(servers, _Health())
        self.capabilities: Capabilities = NOTHING

    async def open(self, client: Client) -> DownstreamSession:
        """Open a session in the name of a client.

        Raises:
            UnreachableError: no server took a session.
            IdentityError: a server did not take over the client's identity.
        """
        return await self._first(client)

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
        now = time.monotonic()
        in_order = sorted(self._health, key=lambda server: self._health[server].shunned_until > now)
        for server in in_order:
            try:
                session = await self._connect(server, client)
            except IdentityError:
                self._on_health(True)
                raise
            except (OSError, DownstreamError, ssl.SSLError) as error:
                self._shun(server)
                text = str(error) or type(error).__name__
                reasons.append(text if str(server) in text else f"{server}: {text}")
            else:
                self._health[server] = _Health()
                self._on_health(True)
                self.capabilities = session.capabilities
                return session
        self._on_health(False)
        raise UnreachableError("; ".join(reasons))

    async def _connect(self, server: ServerAddress, client: Client | None) -> DownstreamSession:
        """Connect, greet, begin TLS, hand over the identity: in this order."""
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
        self._observe("connect", "2", time.monotonic() - started)
        session = DownstreamSession(wire, server, self._settings, self._observe)
        try:
            await session.greet(client)
        except BaseException:
            wire.abort()
            raise
        return session

    def _shun(self, server: ServerAddress) -> None:
        """Try a server last for a while."""
        backoff_s = self._health[server].backoff_s
        self._health[server] = _Health(
            time.monotonic() + backoff_s, min(2 * backoff_s, _LONGEST_BACKOFF_S)
        )
