"""The real gateway: `mailonce serve` as a process group of its own, configured by the test.

Everything a test learns from it, it learns as a postmaster would: over SMTP, from the log, from
``/metrics`` and ``/readyz``.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.process import Child, free_port, start, temporary_folder, wait_until

_ROOT = Path(__file__).parents[2]
_STARTUP_LIMIT_S = 45.0
_HTTP_LIMIT_S = 30.0
_STORE_TIMEOUT = "20s"
_BUG = re.compile(r"Traceback \(most recent call last\)|Task exception was never retrieved")

Settings = Mapping[str, Any]
"""Configuration by dotted key: ``{"dedup.action": "drop", "downstream.servers": [...]}``."""


class Gateway:
    """One instance.

    Attributes:
        folder: its configuration, log and SQLite file.
        port: of its first SMTP listener.
        http_port: of metrics, health and console.
        settings: all that differs from the defaults.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        environment: Mapping[str, str],
        wrapper: Sequence[str | Path] = (),
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.http_port = free_port()
        self.settings: dict[str, Any] = {
            "hostname": "gateway.test",
            "listen.smtp": [f"127.0.0.1:{self.port}"],
            "listen.http": f"127.0.0.1:{self.http_port}",
            "store.url": f"sqlite://{folder}/seen.db",
            # A busy machine's disk is slow; what it has not answered in time passes unchecked.
            "store.timeout": _STORE_TIMEOUT,
            "log.format": "json",
            **settings,
        }
        self._environment = environment
        self._wrapper = wrapper
        self._child: Child | None = None

    @property
    def config_file(self) -> Path:
        """Return where its configuration is, for the other commands."""
        return self.folder / "config.toml"

    @property
    def pid(self) -> int:
        """Return the process id of the supervisor."""
        return self._running.pid

    @property
    def worker_pids(self) -> list[int]:
        """Return the process ids of its workers, in order of their starts."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sorted(int(pid) for pid in children)

    def start(self, *, until: str = "ready") -> None:
        """Start it and wait until it serves.

        Args:
            until: ``ready``: it passes mail on; ``alive``: it answers, whatever it says of itself;
                ``started``: not at all.

        Raises:
            StartError: it ended.
        """
        self.write_config()
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "gateway",
            "serve",
            "--config",
            self.config_file,
        ]
        self._child = start(
            [*self._wrapper, *command],
            self.folder / "log",
            folder=_ROOT,
            environment={"PYTHONDONTWRITEBYTECODE": "", **self._environment},
        )
        if until != "started":
            self.wait_until_alive()
        if until == "ready":
            self.wait_until_ready()

    def wait_until_alive(self, limit_s: float = _STARTUP_LIMIT_S) -> None:
        """Wait until it answers over HTTP."""
        wait_until(
            lambda: self.http("/healthz")[0] == 200, "the gateway starts", limit_s, self._child
        )

    def wait_until_ready(self, limit_s: float = _STARTUP_LIMIT_S) -> None:
        """Wait until it says that mail flows."""
        wait_until(
            lambda: self.http("/readyz")[0] == 200, "the gateway is ready", limit_s, self._child
        )

    def write_config(self, settings: Settings | None = None) -> None:
        """Write its configuration, with changes that stay."""
        self.settings.update(settings or {})
        self.config_file.write_text(as_toml(self.settings))

    def reload(self, settings: Settings | None = None) -> None:
        """Change its configuration and have it read, by SIGHUP."""
        self.write_config(settings)
        before = self.log().count('"reload')
        self._running.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log().count('"reload') > before, "the gateway reloads")

    def stop(self, limit_s: float = 45.0) -> int:
        """Stop it as systemd does, see that it left no trace of a bug, and return its status."""
        if self._child is None:
            return 0
        child, self._child = self._child, None
        status = child.stop(limit_s)
        bug = _BUG.search(self.log())
        assert bug is None, f"a bug in the gateway:\n{self.log()[bug.start() :][:6000]}"
        return status

    def kill(self) -> None:
        """Kill the whole of it, as the machine's end would."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def restart(self) -> None:
        """Start it again, after a stop if it runs; ports, configuration and list stay."""
        self.stop()
        self.start()

    def end(self, limit_s: float = 30.0) -> int:
        """Wait until it ends by itself; return its status."""
        child = self._running
        wait_until(lambda: not child.is_running, "the gateway ends by itself", limit_s)
        self._child = None
        return child.kill()

    def log(self) -> str:
        """Return all that it has printed."""
        file = self.folder / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def log_lines(self, **wanted: object) -> list[dict[str, Any]]:
        """Return the log lines that hold these values, such as ``event="message"``."""
        lines = []
        for text in self.log().splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and wanted.items() <= line.items():
                    lines.append(line)
        return lines

    def wait_for_log(self, pattern: str, limit_s: float = 30.0) -> re.Match[str]:
        """Wait until what it has printed matches; return the match."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, self.log(), re.MULTILINE)

        match = wait_until(found, f"/{pattern}/ in the log", limit_s, self._child)
        assert match is not None
        return match

    def http(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Ask it over HTTP; return status and body, status 0 if nobody answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}{path}", headers=dict(headers or {})
        )
        try:
            with urllib.request.urlopen(request, timeout=_HTTP_LIMIT_S) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Return every sample: name and sorted labels -> value."""
        status, text = self.http("/metrics")
        assert status == 200, f"/metrics answers {status}"
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """Return one sample, or the sum of those that carry these labels among others.

        Raises:
            KeyError: there is none.
        """
        found = [
            value
            for (sample, its_labels), value in self.metrics().items()
            if sample == name and labels.items() <= dict(its_labels).items()
        ]
        if not found:
            raise KeyError(f"{name}{labels}")
        return sum(found)

    def wait_for_metric(self, value: float, name: str, **labels: str) -> None:
        """Wait until a sample has a value; counters may lag behind a reply by a moment."""
        wait_until(lambda: self.metric(name, **labels) == value, f"{name}{labels} is {value:g}")

    @property
    def _running(self) -> Child:
        assert self._child is not None, "the gateway does not run"
        return self._child


def settings_for(port: int, scheme: str = "smtp") -> dict[str, Any]:
    """Return settings to pass mail on to a loopback port."""
    return {"downstream.servers": [f"{scheme}://127.0.0.1:{port}"]}


@contextlib.contextmanager
def running_gateway(
    settings: Settings,
    *,
    environment: Mapping[str, str] | None = None,
    until: str = "ready",
    wrapper: Sequence[str | Path] = (),
) -> Iterator[Gateway]:
    """Run a gateway, and stop it at the end if the test has not.

    Args:
        settings: what differs from the defaults of `Gateway`.
        environment: additions to ours.
        until: see `Gateway.start`.
        wrapper: command that becomes the gateway's; it must exec it.
    """
    with temporary_folder("mailonce") as folder:
        gateway = Gateway(folder, settings, environment or {}, wrapper)
        try:
            gateway.start(until=until)
            yield gateway
        except BaseException as error:
            # What the gateway has to say of it belongs to the failure.
            error.add_note(f"the gateway's log ends with:\n{gateway.log()[-3000:]}")
            gateway.kill()
            raise
        gateway.stop()


def as_toml(settings: Settings) -> str:
    """Write settings as TOML; a dotted key may stand before all tables, rules come last."""
    lines = [f"{key} = {_toml(value)}" for key, value in settings.items() if key != "policy"]
    for rule in settings.get("policy", ()):
        lines += ["[[policy]]", *(f"{key} = {_toml(value)}" for key, value in rule.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    # Strings, numbers and booleans are written in TOML as in JSON.
    return json.dumps(value)
