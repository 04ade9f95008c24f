"""A real Sendmail of our own, beside the Postfix of the system, in a temporary folder.

Debian lets only one of the two be installed, so `.ci/packages` only unpacks Sendmail. The program
asks for the name of its host before it reads its configuration, and sleeps for a minute if it finds
none with a dot. So it runs in namespaces of its own, where the host is ``sendmail.test`` and names
are looked up in a file of ours: it never asks the world's name servers. That takes root.

Mail for `DOMAINS` is taken and passed on at once, most of it before the client gets its 250; what
could not be passed on is tried again each second.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.need import miss, need, program
from tests.support.process import Child, can_connect, free_port, start, temporary_folder, wait_until

DOMAINS = ("tag.test", "drop.test", "alias.test", "example.org")
"""What the instances here relay for; 127.0.0.1 alone may have any recipient."""

HOSTNAME = "sendmail.test"
"""Its own name, and the domain of its local users."""

UNPACKED = Path("/var/cache/mailonce-sendmail")
# Debian 12 and later, and before.
_PROGRAMS = ("usr/libexec/sendmail/sendmail", "usr/lib/sm.bin/sendmail")
_CONFIGURATION = """divert(-1)
include(`{unpacked}/usr/share/sendmail/cf/m4/cf.m4')
divert(0)dnl
OSTYPE(`linux')dnl
define(`confDOMAIN_NAME', `{hostname}')dnl
define(`confPID_FILE', `{folder}/sendmail.pid')dnl
define(`QUEUE_DIR', `{folder}/queue')dnl
define(`ALIAS_FILE', `text:-k0 -v1 -z: {folder}/aliases')dnl
define(`STATUS_FILE', `')dnl
define(`HELP_FILE', `')dnl
define(`confCONTROL_SOCKET_NAME', `')dnl
define(`confSERVICE_SWITCH_FILE', `{folder}/service.switch')dnl
define(`confTO_IDENT', `0')dnl
define(`confDELIVERY_MODE', `interactive')dnl
define(`confSAFE_QUEUE', `interactive')dnl
dnl A busy machine makes no difference.
define(`confREFUSE_LA', `1000')dnl
define(`confQUEUE_LA', `1000')dnl
dnl The folders of tests are in /tmp.
define(`confDONT_BLAME_SENDMAIL', `TrustStickyBit')dnl
define(`SMART_HOST', `relay:[127.0.0.1]')dnl
define(`RELAY_MAILER_ARGS', `TCP $h {passes_to}')dnl
RELAY_DOMAIN(`{domains}')dnl
FEATURE(`no_default_msa')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
{mc}
{daemons}
MAILER(`local')dnl
MAILER(`smtp')dnl
"""
_FILES = {
    "hosts": f"127.0.0.1 {HOSTNAME} localhost\n",
    "nsswitch.conf": "hosts: files\npasswd: files\ngroup: files\n",
    "service.switch": "hosts files\naliases files\npasswd files\n",
}
_OWN_WORLD = f"""
mount --bind hosts /etc/hosts
mount --bind nsswitch.conf /etc/nsswitch.conf
hostname {HOSTNAME}
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Door:
    """A port that it listens on.

    Attributes:
        filters: names of the milters behind it, a semicolon between them; all unless given.
        port: free unless given.
    """

    filters: str = ""
    port: int = field(default_factory=free_port)

    def daemon(self, name: str) -> str:
        """Return its line of the configuration."""
        filters = f", InputMailFilters={self.filters}" if self.filters else ""
        equates = f"Name={name}, Family=inet, Addr=127.0.0.1, Port={self.port}{filters}"
        return f"DAEMON_OPTIONS(`{equates}')dnl"


class Sendmail:
    """A running instance.

    Attributes:
        folder: all of it.
        doors: its ports, in order.
    """

    def __init__(self, binary: Path, folder: Path, doors: tuple[Door, ...]) -> None:
        self._binary = binary
        self.folder = folder
        self.doors = doors
        self._child: Child | None = None

    @property
    def port(self) -> int:
        """Return the first of its ports."""
        return self.doors[0].port

    def start(self) -> None:
        """Start it and wait until it listens."""
        command: list[str | Path] = ["unshare", "--mount", "--uts", "sh", "-ec", _OWN_WORLD, "sh"]
        command += [self._binary, "-C", self.folder / "sendmail.cf", "-bD", "-q1s"]
        child = start(command, self.folder / "sendmail.out", folder=self.folder)
        self._child = child
        for door in self.doors:
            wait_until(lambda: can_connect(door.port), "Sendmail starts", child=child)  # noqa: B023 - used at once

    def stop(self) -> None:
        """Stop it at once, with the processes of its sessions."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def wait_until_idle(self) -> None:
        """Wait until all that it has answered with 250 is passed on or dropped."""
        queue = self.folder / "queue"
        wait_until(lambda: not any(queue.iterdir()), "an empty queue", child=self._child)


@contextlib.contextmanager
def running_sendmail(
    *doors: Door, passes_to: int, mc: str = "", aliases: str = ""
) -> Iterator[Sendmail]:
    """Run a Sendmail.

    Args:
        doors: its ports; one behind all milters unless said.
        passes_to: port of the server that it relays to.
        mc: more for the configuration, such as ``INPUT_MAIL_FILTER`` lines.
        aliases: of local users, a line ``name:target`` each.
    """
    need("unshare:util-linux", "m4", root=True)
    binary = _binary()
    with temporary_folder("sendmail") as folder:
        instance = Sendmail(binary, folder, doors or (Door(),))
        (folder / "queue").mkdir(mode=0o700)
        for name, text in {**_FILES, "aliases": aliases}.items():
            (folder / name).write_text(text)
        text = _CONFIGURATION.format(
            unpacked=UNPACKED,
            hostname=HOSTNAME,
            folder=folder,
            passes_to=passes_to,
            domains=" ".join(DOMAINS),
            mc=mc,
            daemons="\n".join(
                door.daemon(f"door{number}") for number, door in enumerate(instance.doors)
            ),
        )
        _compile(text, folder / "sendmail.cf")
        instance.start()
        try:
            yield instance
        finally:
            instance.stop()


def _binary() -> Path:
    found = [UNPACKED / name for name in _PROGRAMS if (UNPACKED / name).exists()]
    if not found:
        miss(f"Sendmail is missing: run .ci/packages as root; it is unpacked to {UNPACKED}")
    return found[0]


def _compile(text: str, file: Path) -> None:
    done = subprocess.run([program("m4")], input=text.encode(), capture_output=True, check=True)
    assert not done.stderr, done.stderr.decode()
    file.write_bytes(done.stdout)
