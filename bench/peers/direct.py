"""No server at all: the load goes straight to the sink. What load and sink cost by themselves."""

from __future__ import annotations

from bench.peers import Peer, Running, Site


def _start(site: Site) -> Running:
    return Running(site.sink_port, None)


PEERS = (Peer("direct", "straight to the sink", _start),)
