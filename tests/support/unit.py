"""What systemd does with our units, as far as a process can tell: sockets, environment, end.

Reads the unit files of deploy/systemd/ themselves, so that what is tested is what is shipped. What
only the kernel can enforce for a real systemd (name spaces, system call filters) is not here; that
no capability and no writable executable memory is needed, is.
"""

from __future__ import annotations

import configparser
import contextlib
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.need import need
from tests.support.process import Child, start, wait_until

DEPLOY = Path(__file__).parents[2] / "deploy/systemd"
SECRET = "a key of this test\n"
"""What the credential holds."""

_ROOT = Path(__file__).parents[2]
_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN = 65, 1  # Linux 6.3; older kernels ignore it
# Takes a descriptor to be number 3 and becomes the command behind it, as systemd does between fork
# and exec. MemoryDenyWriteExecute is the kernel's own here; systemd forbids the same by a filter.
_BETWEEN_FORK_AND_EXEC = f"""
import ctypes, os, sys
descriptor, *command = sys.argv[1:]
if descriptor != "-":
    os.dup2(int(descriptor), 3)
    os.set_inheritable(3, True)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
ctypes.CDLL(None).prctl({_PR_SET_MDWE}, {_PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0)
os.execvp(command[0], command)
"""
# No capability at all, not even for root, and no way to get one.
_UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--")


class UnitFile:
    """One unit file."""

    def __init__(self, name: str) -> None:
        self.name = name
        parser = configparser.RawConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their case
        self._lines = (DEPLOY / name).read_text().splitlines()
        parser.read_string("\n".join(self._lines))
        self._parser = parser

    def get(self, section: str, key: str) -> str:
        """Return the value of a key; the last one counts."""
        return self._parser[section][key]

    def all(self, key: str) -> list[str]:
        """Return every value of a key that may stand several times."""
        return [line.partition("=")[2] for line in self._lines if line.startswith(f"{key}=")]


class Unit:
    """mailonce.service with mailonce.socket, of one test.

    Attributes:
        port: that the socket unit listens on.
        states: what the service has told, in order.
    """

    def __init__(self, folder: Path, config: Path, *, is_activated: bool = True) -> None:
        """Make the folders and sockets that systemd would.

        Args:
            folder: stands for everything that the unit names.
            config: for /etc/mailonce/config.toml.
            is_activated: whether the socket unit is in use.
        """
        need("setpriv:util-linux")
        self._folder = folder
        self._service = UnitFile("mailonce.service")
        self._child: Child | None = None
        self._listener: socket.socket | None = None
        self.port = 0
        self.states: list[str] = []
        self._places = {
            "/opt/mailonce/bin/mailonce": f"{sys.executable} -m gateway",
            "/etc/mailonce/config.toml": str(config),
        }
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(folder / "notify"))
        self._notified.setblocking(False)
        credentials = folder / "credentials"
        credentials.mkdir()
        for value in self._service.all("LoadCredential"):
            (credentials / value.partition(":")[0]).write_text(SECRET)
        (folder / self._service.get("Service", "StateDirectory")).mkdir()
        if is_activated:
            self._listener = socket.create_server(
                ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True
            )
            self.port = self._listener.getsockname()[1]

    @property
    def environment(self) -> Mapping[str, str]:
        """Return what systemd would put into the environment."""
        pairs = (value.partition("=") for value in self._service.all("Environment"))
        credentials = str(self._folder / "credentials")
        own = {name: value.replace("%d", credentials) for name, _, value in pairs}
        state = self._folder / self._service.get("Service", "StateDirectory")
        socket_unit = UnitFile("mailonce.socket")
        return {
            **own,
            "NOTIFY_SOCKET": str(self._folder / "notify"),
            "STATE_DIRECTORY": str(state),
            "LISTEN_FDNAMES": socket_unit.get("Socket", "FileDescriptorName"),
            "WATCHDOG_USEC": str(int(self._service.get("Service", "WatchdogSec")) * 1_000_000),
        }

    @property
    def pid(self) -> int:
        """Return the main process."""
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Start the service, and wait until it says that it is ready, as `Type=notify` does."""
        self._listen()
        self.states.clear()
        descriptor = str(self._listener.fileno()) if self._listener is not None else "-"
        self._child = start(
            [
                *_UNPRIVILEGED,
                *(sys.executable, "-c", _BETWEEN_FORK_AND_EXEC, descriptor),
                *shlex.split(self._placed(self._service.get("Service", "ExecStart"))),
            ],
            self._folder / "log",
            folder=_ROOT,
            environment=self.environment,
            descriptors=() if self._listener is None else (self._listener.fileno(),),
        )
        self.wait_for("READY=1")

    def wait_for(self, state: str, count: int = 1) -> None:
        """Wait until it has told a state so often since its start."""
        wait_until(
            lambda: self.count(state) >= count, f"{state} from the service", 30.0, self._child
        )

    def count(self, state: str) -> int:
        """Count how often it has told a state since its start."""
        self._listen()
        return self.states.count(state)

    def reload(self) -> None:
        """Run `ExecReload`, and wait until the service is ready again."""
        ready = self.count("READY=1")
        command = self._service.get("Service", "ExecReload").replace("$MAINPID", str(self.pid))
        subprocess.run(shlex.split(command), check=True, timeout=30)
        self.wait_for("READY=1", ready + 1)

    def stop(self) -> int:
        """Stop it by `KillMode=mixed`: SIGTERM for the main process, later SIGKILL for all."""
        if self._child is None:
            return 0
        child, self._child = self._child, None
        if child.is_running:
            child.send_signal(signal.SIGTERM)
        limit_s = float(self._service.get("Service", "TimeoutStopSec"))

        def has_ended() -> bool:
            self._listen()  # few datagrams fit into the socket: whoever tells more would wait
            return not child.is_running

        with contextlib.suppress(TimeoutError):
            wait_until(has_ended, "the service ends", limit_s)
        return child.kill()

    def stop_listening(self) -> None:
        """Stop the socket unit."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """Leave nothing behind."""
        self.stop()
        self.stop_listening()
        self._notified.close()

    def log(self) -> str:
        """Return what the journal would hold."""
        return (self._folder / "log").read_text()

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.states += self._notified.recv(4096).decode().splitlines()

    def _placed(self, text: str) -> str:
        for there, here in self._places.items():
            assert there in text, there
            text = text.replace(there, here)
        return text
