"""Health checks of downstream and tracking list, so that ``/readyz`` is right without any traffic.

No more of them than needed: each check of the downstream is a line in its log. What was seen goes
to the metrics and is kept as a `Condition`; what is wrong with the list is logged as well, before
any message meets it. Never fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway import wiring
from gateway.config import Config
from gateway.config.place import StoreScheme
from gateway.config.type import OnFailure
from gateway.core.readiness import Condition, Readiness, readiness
from gateway.edge.breaker import Breaker
from gateway.edge.metrics import Metrics
from gateway.edge.redis_inspection import inspect
from gateway.errors import ConfigError, DownstreamError, TrackingListError
from gateway.guard import Standing

_FRESH_S = 2.0
_FRESH_FOR_WHO_ASKS_S = 0.25
_DOWNSTREAM_PERIOD_S = 15.0
_EVICTION_PERIOD_S = 15.0
_TIMEOUT_S = 5.0


class Lookout:
    """The supervisor's view of our health.

    Attributes:
        standing: of the downstream, as the open-relay guard has found.
        store: the tracking list, for a look at the past; another process' memory cannot be seen.
        is_starting: whether no sessions are taken yet.
        is_stopping: whether no new sessions are taken any more.
    """

    def __init__(
        self,
        config: Config,
        connector: wiring.Connector,
        metrics: Metrics,
        complain: Callable[[str, str], None],
    ) -> None:
        """Look at nothing yet.

        Args:
            config: in force.
            connector: to the downstream.
            metrics: told what is found.
            complain: told what is wrong with the list: event and reason, as `Journal.complain`.
        """
        self.standing = Standing.SAFE
        self.is_starting = True
        self.is_stopping = False
        self.store = wiring.store_of(config)
        self._config = config
        self._connector = connector
        self._metrics = metrics
        self._complain = complain
        self._url = config.store.url  # the list stays, whatever a reload says
        self._is_list_shared = self._url.scheme is not StoreScheme.MEMORY
        self._breaker = Breaker(self.store, _ignore, complain=complain)
        self._is_list_up = True
        metrics.store_is_up(True)  # as the breakers have it, until somebody finds otherwise
        self._is_downstream_up = True
        self._may_evict = False
        self._evicted_keys: int | None = None
        self._downstream_seen_s = 0.0
        self._list_seen_s = 0.0
        self._eviction_seen_s = 0.0
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
            # What was well a moment ago may be down; what was down is given time to come back.
            fresh_s = _FRESH_FOR_WHO_ASKS_S if is_asked and self._is_list_up else _FRESH_S
            if now - self._list_seen_s > fresh_s and self._is_list_shared:
                was_up = self._breaker.is_up
                await self._breaker.probe()
                # Back is what answers twice: meanwhile the workers have noticed, too, and who waits
                # for us to be ready again does not meet one that still lets mail pass unchecked.
                self._is_list_up = self._breaker.is_up and (was_up or self._is_list_up)
                self._metrics.store_is_up(self._breaker.is_up)
                self._list_seen_s = time.monotonic()
            if now - self._eviction_seen_s > _EVICTION_PERIOD_S and self._breaker.is_up:
                self._eviction_seen_s = now
                await self._look_at_eviction()
            period_s = _FRESH_S
            if self._is_downstream_up:
                period_s = _FRESH_FOR_WHO_ASKS_S if is_asked else _DOWNSTREAM_PERIOD_S
            if now - self._downstream_seen_s > period_s:
                self._is_downstream_up = await self._sees_downstream()
                self._metrics.downstream_is_up(self._is_downstream_up)
                # When it was seen, not when we began to look: who waited meanwhile need not again.
                self._downstream_seen_s = time.monotonic()

    @property
    def is_downstream_up(self) -> bool:
        """Return whether the downstream took a session when it was last looked at."""
        return self._is_downstream_up

    def readiness(self) -> Readiness:
        """Judge what was seen."""
        return readiness(
            Condition(
                is_downstream_up=self._is_downstream_up,
                has_probe_failed=self.standing is Standing.OPEN,
                is_unproven=self.standing is Standing.UNPROVEN,
                is_list_up=self._is_list_up,
                may_evict=self._may_evict,
                defers_unchecked=self._config.store.on_failure is OnFailure.TEMPFAIL,
                is_stopping=self.is_stopping,
                is_starting=self.is_starting,
            )
        )

    async def close(self) -> None:
        """Let go of the list."""
        await self._breaker.close()

    async def _look_at_eviction(self) -> None:
        """Ask a Redis whether it throws away what it was given; one that does not tell does not."""
        if not self._url.scheme.is_redis:
            return
        try:
            states = await inspect(self._url.text.get_secret_value(), _TIMEOUT_S)
        except (TrackingListError, ConfigError):
            return  # whether the list answers is another question, and asked elsewhere
        may_evict = any(state.may_evict for state in states)
        evicted = sum(state.number("evicted_keys") for state in states)
        if self._evicted_keys is not None and evicted > self._evicted_keys:
            self._complain("store_evicts", f"{evicted - self._evicted_keys} keys thrown away")
        elif may_evict and not self._may_evict:
            self._complain("store_evicts", "its maxmemory-policy allows it to")
        self._may_evict, self._evicted_keys = may_evict, evicted
        self._metrics.store_evicts(may_evict, evicted)

    async def _sees_downstream(self) -> bool:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._connector.ask_capabilities()
        except (TimeoutError, DownstreamError):
            return False
        return True


def _ignore(operation: str, result: str, elapsed_s: float) -> None:
    """Count nothing: these operations are ours, not a message's."""
