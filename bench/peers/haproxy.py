"""HAProxy in TCP mode with splicing: octets are copied and nothing else; the limit of any proxy."""

from __future__ import annotations

from bench.peers import Peer, Running, Site
from bench.process import answers, free_port, start, wait_for

_CONFIG = """\
global
    nbthread 2
    maxconn 6000
defaults
    mode tcp
    option splice-auto
    timeout connect 10s
    timeout client 5m
    timeout server 10m
listen smtp
    bind 127.0.0.1:{port} backlog 2000
    server sink 127.0.0.1:{sink_port}
"""


def _start(site: Site) -> Running:
    port = free_port()
    config = site.folder / "haproxy.cfg"
    config.write_text(_CONFIG.format(port=port, sink_port=site.sink_port))
    child = start(["haproxy", "-db", "-f", config], site.folder / "haproxy.log")
    wait_for(lambda: answers(port), child)
    return Running(port, child)


PEERS = (Peer("haproxy", "HAProxy, TCP splice", _start),)
