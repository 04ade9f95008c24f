"""mailonce itself: Redis, ``match = "content"``, metrics on, everything else as it comes.

The client's address is handed on with XFORWARD, as Postfix's proxy does: smtp-sink answers XCLIENT
with a 250 and not with a greeting, and mailonce rightly takes that for a refusal.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from bench.peers import Peer, Running, Site
from bench.process import Child, StartError, answers, free_port, start, wait_for

_ROOT = Path(__file__).resolve().parents[2]
_CONFIG = """\
hostname = "bench.example.net"
workers = {workers}

[listen]
smtp = ["127.0.0.1:{port}"]
http = "127.0.0.1:{http_port}"

[tls]
certificate = "{certificate}"
key = "{key}"

[downstream]
servers = ["smtp://127.0.0.1:{sink_port}"]
identity = "{identity}"

[store]
url = "redis://127.0.0.1:{redis_port}/{database}"

[dedup]
action = "{action}"
match = "content"

[limits]
sessions = 20000
sessions_per_client = 20000

"""


def start_mailonce(
    site: Site,
    *,
    workers: int = 0,
    database: int = 0,
    action: str = "tag",
    identity: str = "xforward",
    certificate: Path | None = None,
    environment: Mapping[str, str] | None = None,
    tree: Path = _ROOT,
) -> Running:
    """Start ``mailonce serve`` and wait until it is ready.

    Args:
        site: where.
        workers: processes; 0 for one per core.
        database: of Redis.
        action: what happens to duplicates.
        identity: how the client's address is handed on.
        certificate: PEM file with certificate and key, for STARTTLS.
        environment: variables on top of our own.
        tree: folder that its code is taken from.

    Raises:
        StartError: it did not come up.
    """
    port, http_port = free_port(), free_port()
    config = site.folder / "mailonce.toml"
    config.write_text(
        _CONFIG.format(
            workers=workers,
            port=port,
            http_port=http_port,
            sink_port=site.sink_port,
            redis_port=site.redis_port,
            database=database,
            action=action,
            identity=identity,
            certificate=certificate or "",
            key=certificate or "",
        )
    )
    args = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
    child = start(args, site.folder / "mailonce.log", cwd=tree, environment=environment)
    wait_for(lambda: answers(port) and _is_ready(http_port), child)
    return Running(port, child)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return b'"ready"' in answer.read()
    except (urllib.error.URLError, OSError):
        return False


def worker_pids(child: Child) -> list[int]:
    """Return the processes that carry mail: the children of the supervisor.

    Raises:
        StartError: there are none.
    """
    path = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    pids = [int(pid) for pid in path.read_text().split()]
    if not pids:
        raise StartError("mailonce has no workers")
    return pids


PEERS = (
    Peer("mailonce", "mailonce, one worker per core", partial(start_mailonce, workers=0)),
    Peer("mailonce-1", "mailonce, one worker", partial(start_mailonce, workers=1)),
)
