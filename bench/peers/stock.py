"""Stock aiosmtpd + aiosmtplib + redis-py (`stock_proxy`): one process, and one per core."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from bench.peers import Peer, Running, Site
from bench.process import StartError, answers, free_port, start, wait_for


def _start(site: Site, processes: int) -> Running:
    if find_spec("aiosmtplib") is None:
        raise StartError("aiosmtplib is not installed (pip install aiosmtplib)")
    port = free_port()
    program = Path(__file__).with_name("stock_proxy.py")
    numbers = [str(number) for number in (processes, port, site.sink_port, site.redis_port)]
    child = start([sys.executable, program, *numbers], site.folder / "stock.log")
    wait_for(lambda: answers(port), child)
    return Running(port, child)


_CORES = os.cpu_count() or 1

PEERS = (
    Peer("stock", "stock aiosmtpd + aiosmtplib + redis-py", partial(_start, processes=_CORES)),
    Peer("stock-1", "the same, one process", partial(_start, processes=1)),
)
