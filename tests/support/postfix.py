"""A real Postfix of our own: configuration, queue and log in a temporary folder, its ports free.

The master runs in the foreground in a session of its own, nothing is chrooted, and the Postfix of
the system, if there is one, is not touched. Only root can start it. Mail for `DOMAIN` is taken,
either held in the queue, where its octets can be read, or passed on to a server that the test has.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.need import need, program
from tests.support.process import Child, free_port, start, temporary_folder, wait_until

DOMAIN = "example.org"
"""What the instances here relay for; any other recipient is a foreign one."""

_MASTER = Path("/usr/lib/postfix/sbin/master")
# Folder of the queue -> group, mode: as `postfix check` makes them.
_QUEUE = {
    **dict.fromkeys(("active", "bounce", "corrupt", "defer", "deferred"), ("root", 0o700)),
    **dict.fromkeys(("flush", "hold", "incoming", "private", "saved", "trace"), ("root", 0o700)),
    "maildrop": ("postdrop", 0o730),
    "public": ("postdrop", 0o710),
}
_SERVICES = """
cleanup    unix       n - n - 0   cleanup
qmgr       unix       n - n 5   1 qmgr
tlsmgr     unix       - - n 300 1 tlsmgr
rewrite    unix       - - n - -   trivial-rewrite
bounce     unix       - - n - 0   bounce
defer      unix       - - n - 0   bounce
trace      unix       - - n - 0   bounce
verify     unix       - - n - 1   verify
flush      unix       n - n 300 0 flush
proxymap   unix       - - n - -   proxymap
smtp       unix       - - n - -   smtp
relay      unix       - - n - -   smtp
lmtp       unix       - - n - -   lmtp
error      unix       - - n - -   error
retry      unix       - - n - -   error
discard    unix       - - n - -   discard
showq      unix       n - n - -   showq
anvil      unix       - - n - 1   anvil
scache     unix       - - n - 1   scache
postlog    unix-dgram n - n - 1   postlogd
"""
# The guard of an after-filter service: it trusts us to tell the client's address, and nothing more.
GUARD: Mapping[str, str] = {
    "smtpd_authorized_xclient_hosts": "127.0.0.0/8",
    "mynetworks": "",
    "smtpd_relay_restrictions": "permit_sasl_authenticated,reject_unauth_destination",
    "smtpd_client_event_limit_exceptions": "",
    "smtpd_forbid_bare_newline": "yes",
    "smtpd_forbid_bare_newline_exclusions": "",
    "smtpd_forbid_unauth_pipelining": "yes",
    "local_header_rewrite_clients": "",
    "smtpd_discard_ehlo_keywords": "chunking,etrn,vrfy",
}
"""Options of a smtpd that stands behind the gateway."""

_MAIN: Mapping[str, str] = {
    "compatibility_level": "3.6",
    "myhostname": "postfix.test",
    "mydestination": "",
    "mynetworks": "",
    "relay_domains": DOMAIN,
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "alias_maps": "",
    "alias_database": "",
    "disable_dns_lookups": "yes",  # a test never asks the world's name servers
    "smtp_host_lookup": "native",
    "lmtp_line_length_limit": "0",
    "smtp_line_length_limit": "0",
    "queue_minfree": "0",
    "max_idle": "5s",
    "smtpd_timeout": "30s",
}
_RECORD_LINE = re.compile(r"^(?P<kind>[a-z_]+): (?P<value>.*)$")


@dataclass(frozen=True, slots=True)
class Queued:
    """A message in the queue.

    Attributes:
        queue_id: its name.
        sender: reverse-path without brackets.
        recipients: forward-paths without brackets.
        message: content with CRLF line ends, under the Received field that Postfix put first.
        attributes: what else the envelope says, such as ``client_address``.
    """

    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    message: bytes
    attributes: Mapping[str, str]

    @property
    def as_received(self) -> bytes:
        """Return the content without the Received field that this Postfix prepended."""
        return re.sub(rb"\AReceived:.*?\r\n(?![ \t])", b"", self.message, count=1, flags=re.DOTALL)


@dataclass(frozen=True, slots=True)
class Service:
    """One more smtpd.

    Attributes:
        port: free unless given.
        options: its ``-o`` options.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    def master_line(self) -> str:
        """Return its entry in master.cf."""
        lines = [f"127.0.0.1:{self.port} inet n - n - 100 smtpd"]
        # Braces, because a value may hold blanks.
        lines += [f"  -o {{ {name} = {value} }}" for name, value in self.options.items()]
        return "\n".join(lines)


class Postfix:
    """A running instance.

    Attributes:
        folder: all of it.
        port: of its first smtpd.
        services: its smtpds, in order.
    """

    def __init__(self, folder: Path, services: Sequence[Service]) -> None:
        self.folder = folder
        self.services = tuple(services)
        self._child: Child | None = None
        self._read_log_from = 0

    @property
    def port(self) -> int:
        """Return the port of its first smtpd."""
        return self.services[0].port

    @property
    def configuration(self) -> Path:
        """Return the folder of main.cf, for Postfix's own commands."""
        return self.folder / "conf"

    def start(self) -> None:
        """Start it and wait until it listens."""
        # Postfix forks its smtpd at the first connection: to listen is to be ready.
        command: list[str | Path] = [_MASTER, "-c", self.configuration, "-d"]
        self._child = child = start(command, self.folder / "master.out")
        wait_until(lambda: "daemon started" in self.log(), "Postfix starts", child=child)

    def stop(self) -> None:
        """Stop it at once, with all its processes; the queue stays."""
        if self._child is not None:
            self._child.kill()
            self._child = None
            # The lock dies with the process, but the file would puzzle a reader of the folder.
            (self.folder / "queue/pid/master.pid").unlink(missing_ok=True)

    def reload(self, **parameters: str) -> None:
        """Change parameters of main.cf and have them read."""
        # Each in its place: of one that is there twice every process warns when it starts. So does
        # postlogd, which alone empties the socket that it warns through: once that is full, it
        # waits for itself, and all of Postfix for it.
        main = self.configuration / "main.cf"
        lines = dict(line.split(" = ", 1) for line in main.read_text().splitlines())
        fresh = main.with_name("main.cf.new")
        fresh.write_text(_main_cf({**lines, **parameters}))
        fresh.replace(main)
        assert self._child is not None
        before = self.log().count("reload")
        self.command("postfix", "reload")
        wait_until(lambda: self.log().count("reload") > before, "Postfix reloads")

    def command(self, name: str, *args: str) -> bytes:
        """Run one of Postfix's commands on this instance and return what it prints."""
        command = [str(program(name)), "-c", str(self.configuration), *args]
        done = subprocess.run(command, capture_output=True, timeout=50, check=False)
        assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
        return done.stdout

    def log(self) -> str:
        """Return the whole log."""
        file = self.folder / "log/mail.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def wait_for_line(self, pattern: str, limit_s: float = 30.0) -> re.Match[str]:
        """Wait for a line of the log after those waited for before; return the match."""

        def found() -> re.Match[str] | None:
            return re.compile(pattern, re.MULTILINE).search(self.log(), self._read_log_from)

        try:
            match = wait_until(found, f"/{pattern}/ in Postfix's log", limit_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the log:\n{self.log()[-4000:]}") from None
        assert match is not None
        self._read_log_from = match.end()
        return match

    def queued(self, *queues: str) -> list[Queued]:
        """Return what is in the queue, oldest first.

        Args:
            queues: which of its folders; ``hold`` unless said.
        """
        files = [
            file
            for queue in queues or ("hold",)
            for file in (self.folder / "queue" / queue).rglob("*")
            if file.is_file()
        ]
        return [self._read(file.name) for file in sorted(files, key=lambda f: f.stat().st_mtime_ns)]

    def wait_for_queued(self, count: int = 1, limit_s: float = 30.0) -> list[Queued]:
        """Wait until so many messages are held, and return them."""
        wait_until(lambda: self._count("hold") >= count, f"{count} messages held", limit_s)
        return self.queued()

    def wait_until_idle(self) -> None:
        """Wait until all that it has accepted, and does not hold, is passed on."""
        folders = [self.folder / "queue" / name for name in ("incoming", "active", "deferred")]

        def is_idle() -> bool:
            with contextlib.suppress(FileNotFoundError):  # a message goes on while we look
                return not any(f.is_file() for each in folders for f in each.rglob("*"))
            return False

        wait_until(is_idle, "an empty queue")

    def forget(self) -> None:
        """Empty the queue; the log goes on."""
        self.command("postsuper", "-d", "ALL")
        self._read_log_from = len(self.log())

    def _count(self, queue: str) -> int:
        # A file that is still written to has not got its final mode.
        files = (self.folder / "queue" / queue).rglob("*")
        return sum(1 for file in files if file.is_file() and file.stat().st_mode & 0o100)

    def _read(self, queue_id: str) -> Queued:
        envelope = self.command("postcat", "-qe", queue_id).decode("utf-8", "replace")
        senders: list[str] = []
        recipients: list[str] = []
        attributes: dict[str, str] = {}
        for line in envelope.splitlines():
            match = _RECORD_LINE.match(line)
            if match is None:
                continue
            if match["kind"] == "sender":
                senders.append(match["value"])
            elif match["kind"] == "recipient":
                recipients.append(match["value"])
            elif match["kind"] == "named_attribute":
                name, _, value = match["value"].partition("=")
                attributes[name] = value
        message = self.command("postcat", "-qbh", queue_id).replace(b"\n", b"\r\n")
        return Queued(queue_id, senders[0], tuple(recipients), message, attributes)


@contextlib.contextmanager
def running_postfix(
    *services: Service,
    main: Mapping[str, str] | None = None,
    master: str = "",
    passes_to: str = "",
) -> Iterator[Postfix]:
    """Run a Postfix.

    Args:
        services: its smtpds; one with `GUARD` unless said.
        main: more for main.cf; see there for ``mynetworks``, ``smtpd_milters`` and the like.
        master: more for master.cf.
        passes_to: transport for accepted mail, such as ``lmtp:inet:127.0.0.1:2424`` or
            ``smtp:[127.0.0.1]:2525``; ``""`` holds it in the queue.
    """
    need("postfix", root=True)
    with temporary_folder("postfix") as folder:
        instance = Postfix(folder, services or (Service(GUARD),))
        _lay_out(instance, {**_MAIN, **_destination(passes_to), **(main or {})}, master)
        instance.start()
        try:
            yield instance
        finally:
            instance.stop()


def _destination(passes_to: str) -> Mapping[str, str]:
    if passes_to:
        return {"relay_transport": passes_to, "default_transport": passes_to}
    return {"smtpd_client_restrictions": "static:HOLD", "default_transport": "retry:held"}


def _lay_out(instance: Postfix, main: Mapping[str, str], master: str) -> None:
    """Write the configuration and make the folders that Postfix expects."""
    folder = instance.folder
    for name in ("conf", "queue", "queue/pid", "data", "log"):
        (folder / name).mkdir()
    shutil.chown(folder / "data", "postfix")
    for name, (group, mode) in _QUEUE.items():
        path = folder / "queue" / name
        path.mkdir()
        shutil.chown(path, "postfix", group)
        path.chmod(mode)
    own = {
        "queue_directory": str(folder / "queue"),
        "data_directory": str(folder / "data"),
        "maillog_file": str(folder / "log/mail.log"),
        "maillog_file_prefixes": str(folder),
    }
    (folder / "conf/main.cf").write_text(_main_cf({**own, **main}))
    smtpds = "\n".join(service.master_line() for service in instance.services)
    (folder / "conf/master.cf").write_text(f"{smtpds}\n{_SERVICES}\n{master}\n")


def _main_cf(parameters: Mapping[str, str]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in parameters.items())
