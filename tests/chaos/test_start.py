"""P1 begins with being there: what happens while the gateway starts must not keep it down."""

from __future__ import annotations

import contextlib
import os
import signal

from tests.support.client import deliver
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.process import wait_until
from tests.support.sink import Sink


def test_a_worker_killed_during_the_first_start_is_replaced() -> None:
    """Found by faults at random, seed 2: we ended with status 2, after which nobody restarts us."""
    with Sink() as sink:
        settings = {**settings_for(sink.port), "workers": 2}
        with running_gateway(settings, until="started") as gateway:
            first, *_ = wait_until(lambda: _workers(gateway), "a worker begins", 45.0)
            os.kill(first, signal.SIGKILL)
            gateway.wait_until_ready()
            assert deliver(
                gateway.port, "a@b.test", ["x@example.org"], letter(fresh_id())
            ).is_accepted
            wait_until(lambda: _are_others(gateway.worker_pids, first), "it is replaced", 30.0)


def _are_others(pids: list[int], killed: int) -> bool:
    return len(pids) == 2 and killed not in pids


def _workers(gateway: Gateway) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return gateway.worker_pids
    return []
