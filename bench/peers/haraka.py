"""Haraka 3 from npm: `smtp_proxy`, its redis plugin, and a deduplication plugin of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

from bench.peers import Peer, Running, Site
from bench.process import StartError, answers, free_port, start, wait_for

_VERSION = "3"
_PLUGIN = Path(__file__).with_name("haraka_dedup.js")
_INSTALL_S = 300


def _installed(cache: Path) -> Path:
    """Return the folder of Haraka, installed there if it is not yet.

    Raises:
        StartError: it cannot be installed; says why.
    """
    folder = cache / "haraka"
    home = folder / "node_modules" / "Haraka"
    if (home / "package.json").exists():
        return home
    if shutil.which("npm") is None:
        raise StartError("npm is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    args = ["npm", "install", "--omit=optional", "--no-audit", "--no-fund", f"Haraka@{_VERSION}"]
    try:
        run = subprocess.run(
            args, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StartError(f"npm took longer than {_INSTALL_S} s") from error
    if run.returncode != 0:
        shutil.rmtree(folder)
        raise StartError(f"npm: {run.stderr[-500:]}")
    return home


def version(cache: Path) -> str:
    """Return the installed version, or an empty string."""
    manifest = cache / "haraka" / "node_modules" / "Haraka" / "package.json"
    return str(json.loads(manifest.read_text())["version"]) if manifest.exists() else ""


def _start(site: Site, *, no_delay: bool) -> Running:
    home = _installed(site.cache)
    port = free_port()
    # Haraka takes its own defaults from this file only: without it every connection ends it.
    defaults = (home / "config" / "connection.ini").read_text()
    files = {
        "config/plugins": "redis\ndedup\nqueue/smtp_proxy\n",
        "config/smtp.ini": f"listen=127.0.0.1:{port}\nnodes={os.cpu_count()}\n",
        "config/smtp_proxy.ini": f"host=127.0.0.1\nport={site.sink_port}\n",
        "config/redis.ini": f"[server]\nport={site.redis_port}\n[opts]\ndatabase=2\n",
        "config/log.ini": "level=warn\n",
        "config/connection.ini": defaults.replace("bytes=26214400", "bytes=104857600"),
        "config/me": "bench.example.net\n",
    }
    for name, text in files.items():
        path = site.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (site.folder / "plugins").mkdir()
    shutil.copy(_PLUGIN, site.folder / "plugins" / "dedup.js")
    environment = {"BENCH_NO_DELAY": "1"} if no_delay else {}
    args = ["node", str(home / "bin" / "haraka"), "-c", str(site.folder)]
    child = start(args, site.folder / "haraka.log", environment=environment)
    wait_for(lambda: answers(port), child, limit_s=60.0)
    return Running(port, child)


PEERS = (
    Peer("haraka", "Haraka 3, smtp_proxy, Redis plugin", partial(_start, no_delay=False)),
    Peer("haraka-nodelay", "the same, TCP_NODELAY set by us", partial(_start, no_delay=True)),
)
