"""Workers come and go: seen from outside, with real processes."""

from __future__ import annotations

import os
import signal

from tests.support.client import deliver
from tests.support.gateway import running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.process import wait_until
from tests.support.sink import Sink


def _are_others(pids: list[int], killed: int) -> bool:
    return len(pids) == 2 and killed not in pids


def test_p1_a_worker_that_is_killed_at_its_start_is_replaced() -> None:
    """P1: mail flows while the other workers are still being started."""
    with Sink() as sink:
        settings = {"workers": 2, **settings_for(sink.port)}
        with running_gateway(settings, until="started") as gateway:
            wait_until(lambda: len(gateway.worker_pids) == 2, "workers are started", 30.0)
            killed = gateway.worker_pids[1]
            os.kill(killed, signal.SIGKILL)
            gateway.wait_for_log('"serving"')
            wait_until(lambda: _are_others(gateway.worker_pids, killed), "it is replaced", 30.0)
            message = letter(fresh_id())
            assert deliver(gateway.port, "a@sender.test", ["x@example.org"], message).is_accepted
