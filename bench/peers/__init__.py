"""What is measured: one module per peer, each with a `PEERS` table.

A peer is a server between the load and the sink. All are started once, before anything is measured,
and rest while others are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.process import Child


@dataclass(frozen=True, slots=True)
class Site:
    """Where a peer is started.

    Attributes:
        folder: its own, empty and temporary.
        cache: for what is downloaded once; outlives the run.
        sink_port: where it sends the mail.
        redis_port: Redis of the rig.
    """

    folder: Path
    cache: Path
    sink_port: int
    redis_port: int


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that accepts mail.

    Attributes:
        port: where, on loopback.
        child: its process; None if there is none (straight to the sink).
    """

    port: int
    child: Child | None


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that can be measured.

    Attributes:
        name: short, for tables and the command line.
        title: what it is.
        start: starts it; raises `StartError` if it cannot be had.
    """

    name: str
    title: str
    start: Callable[[Site], Running]
