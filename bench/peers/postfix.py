"""Postfix's `smtpd_proxy_filter`: an smtpd in C that passes each message on before it is queued.

The nearest thing that Postfix has, without deduplication. An instance of its own: own queue, data
and configuration folder, and all that would slow it down and has nothing to do with passing mail on
is off: chroot, anvil's limits, name look-ups, TLS, address verification, restarts of its processes.
What it logs goes to syslog, which nobody reads here: it pays for no log file.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench.peers import Peer, Running, Site
from bench.process import StartError, answers, free_port, start, wait_for

_MASTER = Path("/usr/lib/postfix/sbin/master")
_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = loopback-only
inet_protocols = ipv4
myhostname = bench.example.net
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
local_recipient_maps =
relay_domains = example.com
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_peername_lookup = no
smtpd_reject_unlisted_recipient = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_tls_security_level = none
default_process_limit = 1200
max_use = 100000
message_size_limit = 104857600
mailbox_size_limit = 0
"""
_SERVICES = """\
127.0.0.1:{port} inet n - n - 1200 smtpd
    -o smtpd_proxy_filter=127.0.0.1:{sink_port}
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
cleanup unix n - n - 0 cleanup
"""


def _start(site: Site) -> Running:
    if not _MASTER.exists():
        raise StartError("Postfix is not installed")
    port = free_port()
    # Postfix refuses folders that its user cannot enter.
    site.folder.chmod(0o755)
    config = site.folder / "config"
    for folder in (config, site.folder / "queue", site.folder / "data"):
        folder.mkdir()
    shutil.chown(site.folder / "data", "postfix")
    (config / "main.cf").write_text(_MAIN.format(folder=site.folder))
    (config / "master.cf").write_text(_SERVICES.format(port=port, sink_port=site.sink_port))
    check = subprocess.run(
        ["postfix", "-c", config, "check"], capture_output=True, text=True, check=False
    )
    if check.returncode != 0:
        raise StartError(check.stderr)
    child = start([_MASTER, "-c", config, "-d"], site.folder / "master.log")
    wait_for(lambda: answers(port), child)
    return Running(port, child)


PEERS = (Peer("postfix", "Postfix smtpd_proxy_filter", _start),)
