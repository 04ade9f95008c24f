"""Whether mail flows, and if not, why: what ``/readyz`` says.

    ready      all is well
    degraded   mail flows, but is not checked: the list is down and ``on_failure = "deliver"``
    unready    mail does not flow

Looks at the downstream and the list itself, not more often than needed, so that the answer holds
without any traffic. Never fails.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import StrEnum

from gateway import wiring
from gateway.config import Config
from gateway.config_place import StoreScheme
from gateway.config_type import OnFailure
from gateway.edge.breaker import Breaker
from gateway.edge.metrics import Metrics
from gateway.errors import DownstreamError
from gateway.guard import Standing

_FRESH_S = 2.0
_DOWNSTREAM_PERIOD_S = 15.0
_TIMEOUT_S = 5.0


class Status(StrEnum):
    """One word for it."""

    READY = "ready"
    DEGRADED = "degraded"
    UNREADY = "unready"


@dataclass(frozen=True, slots=True)
class State:
    """How we are.

    Attributes:
        status: in a word.
        reasons: why it is not `READY`.
    """

    status: Status
    reasons: tuple[str, ...]


class Readiness:
    """Knows how we are.

    Attributes:
        standing: of the downstream, as the open-relay guard has found.
    """

    def __init__(self, config: Config, connector: wiring.Connector, metrics: Metrics) -> None:
        """Look at nothing yet.

        Args:
            config: in force.
            connector: to the downstream.
            metrics: told what is found.
        """
        self.standing = Standing.SAFE
        self._config = config
        self._connector = connector
        self._metrics = metrics
        # A list in one process' memory cannot be seen from here, and does not fail.
        is_shared = config.store.url.scheme is not StoreScheme.MEMORY
        self.store = wiring.store_of(config) if is_shared else None
        self._breaker = Breaker(self.store, _ignore) if self.store is not None else None
        self._downstream_problem = ""
        self._downstream_seen_s = 0.0
        self._store_seen_s = 0.0
        self._looking = asyncio.Lock()

    def reload(self, config: Config, connector: wiring.Connector) -> None:
        """Go on with another configuration; the list stays."""
        self._config = config
        self._connector = connector
        self._downstream_seen_s = 0.0

    async def look(self, *, is_asked: bool = False) -> State:
        """Look at everything whose state may be stale, and say how we are.

        Args:
            is_asked: somebody waits for the answer; then it is of this moment.
        """
        async with self._looking:
            now = time.monotonic()
            if now - self._store_seen_s > _FRESH_S and self._breaker is not None:
                await self._breaker.probe()
                self._metrics.store_is_up(self._breaker.is_up)
                self._store_seen_s = now
            is_steady = not is_asked and not self._downstream_problem
            if now - self._downstream_seen_s > (_DOWNSTREAM_PERIOD_S if is_steady else _FRESH_S):
                await self._look_downstream()
                self._downstream_seen_s = now
        return self._state()

    async def close(self) -> None:
        """Let go of the list."""
        if self._breaker is not None:
            await self._breaker.close()

    async def _look_downstream(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._connector.ask_capabilities()
        except TimeoutError:
            self._downstream_problem = "no answer in time"
            self._metrics.downstream_is_up(False)
        except DownstreamError as error:
            self._downstream_problem = str(error)
        else:
            self._downstream_problem = ""

    def _state(self) -> State:
        unready: list[str] = []
        degraded: list[str] = []
        if self._downstream_problem:
            unready.append(f"downstream unreachable: {self._downstream_problem}")
        if self.standing is Standing.OPEN:
            unready.append("relay probe failed: the downstream relays for strangers")
        if self._breaker is not None and not self._breaker.is_up:
            is_fatal = self._config.store.on_failure is OnFailure.TEMPFAIL
            (unready if is_fatal else degraded).append("tracking list unavailable")
        if unready:
            return State(Status.UNREADY, (*unready, *degraded))
        return State(Status.DEGRADED if degraded else Status.READY, tuple(degraded))


def _ignore(operation: str, result: str, elapsed_s: float) -> None:
    """Count nothing: these operations are ours, not a message's."""
