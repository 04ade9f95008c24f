"""P8: however many ask how we are, the downstream is looked at once for all who wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from gateway import wiring
from gateway.config import Config
from gateway.core.capability import Capabilities
from gateway.core.handover import Client
from gateway.edge.metrics import Metrics
from gateway.errors import UnreachableError
from gateway.lookout import Lookout
from gateway.ports import Downstream, OpenDownstream


class _Sluggish:
    """A downstream that takes its time to say what it can do (`Connector`)."""

    capabilities = Capabilities()

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.looks = 0

    async def open(self, client: Client) -> Downstream:
        raise UnreachableError(f"nobody sends here, {client}")

    def trust(self, places: Sequence[int]) -> None:
        pass

    def openers(self) -> Sequence[OpenDownstream]:
        return []

    async def ask_capabilities(self) -> None:
        self.looks += 1
        await asyncio.sleep(self.takes_s)


async def test_p8_who_waits_for_a_look_takes_what_it_finds() -> None:
    """One after the other, fifty who ask would wait for fifty greetings of a slow server."""
    config = Config.model_validate({"store": {"url": "memory://"}})
    downstream = _Sluggish(takes_s=0.3)
    connector: wiring.Connector = downstream
    lookout = Lookout(config, connector, Metrics(), lambda *_: None)
    began = time.monotonic()
    await asyncio.gather(*(lookout.look(is_asked=True) for _ in range(50)))
    assert downstream.looks == 1
    assert time.monotonic() - began < 50 * downstream.takes_s / 2
    await lookout.close()
