"""Looks at the downstream and the list by itself, so that ``/readyz`` holds without any traffic.

Not more often than needed: a look at the downstream is a line in its log. What was seen is told to
the metrics and kept as a `Condition`. Never fails.
"""

from __future__ import annotations

import asyncio
import time

from gateway import wiring
from gateway.config import Config
from gateway.config.place import StoreScheme
from gateway.config.type import OnFailure
from gateway.core.readiness import Condition, Readiness, readiness
from gateway.edge.breaker import Breaker
from gateway.edge.metrics import Metrics
from gateway.errors import DownstreamError
from gateway.guard import Standing

_FRESH_S = 2.0
_DOWNSTREAM_PERIOD_S = 15.0
_TIMEOUT_S = 5.0


class Lookout:
    """Knows how we are.

    Attributes:
        standing: of the downstream, as the open-relay guard has found.
        store: the tracking list, for a look at the past; another process' memory cannot be seen.
        is_starting: whether no sessions are taken yet.
        is_stopping: whether no new sessions are taken any more.
    """

    def __init__(self, config: Config, connector: wiring.Connector, metrics: Metrics) -> None:
        """Look at nothing yet.

        Args:
            config: in force.
            connector: to the downstream.
            metrics: told what is found.
        """
        self.standing = Standing.SAFE
        self.is_starting = True
        self.is_stopping = False
        self.store = wiring.store_of(config)
        self._config = config
        self._connector = connector
        self._metrics = metrics
        self._is_list_shared = config.store.url.scheme is not StoreScheme.MEMORY
        self._breaker = Breaker(self.store, _ignore)
        self._is_list_up = True
        metrics.store_is_up(True)  # as the breakers have it, until somebody finds otherwise
        self._is_downstream_up = True
        self._downstream_seen_s = 0.0
        self._list_seen_s = 0.0
        self._looking = asyncio.Lock()

    def reload(self, config: Config, connector: wiring.Connector) -> None:
        """Go on with another configuration; the list stays."""
        self._config = config
        self._connector = connector
        self._downstream_seen_s = 0.0

    async def look(self, *, is_asked: bool = False) -> None:
        """Look at everything whose state may be stale.

        Args:
            is_asked: somebody waits for the answer, which should be of this moment.
        """
        async with self._looking:
            now = time.monotonic()
            if now - self._list_seen_s > _FRESH_S and self._is_list_shared:
                was_up = self._breaker.is_up
                await self._breaker.probe()
                # Back is what answers twice: meanwhile the workers have noticed, too, and who waits
                # for us to be ready again does not meet one that still lets mail pass unchecked.
                self._is_list_up = self._breaker.is_up and (was_up or self._is_list_up)
                self._metrics.store_is_up(self._breaker.is_up)
                self._list_seen_s = now
            is_steady = self._is_downstream_up and not is_asked
            if now - self._downstream_seen_s > (_DOWNSTREAM_PERIOD_S if is_steady else _FRESH_S):
                self._is_downstream_up = await self._sees_downstream()
                self._metrics.downstream_is_up(self._is_downstream_up)
                self._downstream_seen_s = now

    def readiness(self) -> Readiness:
        """Judge what was seen."""
        return readiness(
            Condition(
                is_downstream_up=self._is_downstream_up,
                has_probe_failed=self.standing is Standing.OPEN,
                is_list_up=self._is_list_up,
                defers_unchecked=self._config.store.on_failure is OnFailure.TEMPFAIL,
                is_stopping=self.is_stopping,
                is_starting=self.is_starting,
            )
        )

    async def close(self) -> None:
        """Let go of the list."""
        await self._breaker.close()

    async def _sees_downstream(self) -> bool:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._connector.ask_capabilities()
        except (TimeoutError, DownstreamError):
            return False
        return True


def _ignore(operation: str, result: str, elapsed_s: float) -> None:
    """Count nothing: these operations are ours, not a message's."""
