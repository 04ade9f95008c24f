"""deploy/systemd/: what stands in the units is there, works, and is enough."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import service, supervisor, worker
from tests.support.client import Client, deliver
from tests.support.gateway import as_toml, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.need import need, program
from tests.support.process import free_port, start, temporary_folder, wait_until
from tests.support.recording import Answer, Then
from tests.support.sink import Sink
from tests.support.unit import DEPLOY, SECRET, Unit, UnitFile

BOB = "bob@example.org"
SERVICE = UnitFile("mailonce.service")


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder("unit") as made:
        yield made


def configured(folder: Path, sink: Sink, **more: object) -> Path:
    """Write a configuration of two workers, with a list in the state directory."""
    file = folder / "config.toml"
    settings = {
        "hostname": "gateway.test",
        "workers": 2,
        "listen.smtp": [f"127.0.0.1:{free_port()}"],
        "listen.http": "",
        "store.url": f"sqlite://{folder}/mailonce/seen.db",
        "store.timeout": "20s",
        "dedup.action": "drop",
        **settings_for(sink.port),
        **more,
    }
    file.write_text(as_toml(settings))
    return file


@pytest.fixture(scope="module")
def unit(sink: Sink) -> Iterator[Unit]:
    """Return a service that runs, without capabilities and without writable executable memory."""
    with temporary_folder("unit") as folder:
        made = Unit(folder, configured(folder, sink))
        try:
            made.start()
            yield made
        finally:
            made.close()


def test_runs_without_capabilities_and_writable_code(unit: Unit) -> None:
    """MemoryDenyWriteExecute, CapabilityBoundingSet and NoNewPrivileges cost nothing we need."""
    status = Path(f"/proc/{unit.pid}/status").read_text()
    for name in ("CapBnd", "CapEff", "CapPrm"):
        assert re.search(rf"^{name}:\t0+$", status, re.MULTILINE), name
    assert "NoNewPrivs:\t1" in status
    maps = Path(f"/proc/{unit.pid}/maps").read_text()
    assert not re.search(r" rwx[sp] ", maps)


def test_the_secret_is_a_credential(unit: Unit) -> None:
    environ = Path(f"/proc/{unit.pid}/environ").read_bytes()
    (path,) = re.findall(rb"MAILONCE_STORE__SECRET_FILE=([^\0]+)", environ)
    assert Path(path.decode()).read_text() == SECRET
    assert SECRET.strip().encode() not in environ


def test_a_restart_refuses_no_connection(unit: Unit, sink: Sink) -> None:
    """Connections that come while nobody serves wait in the socket that systemd keeps."""
    message = letter(fresh_id())
    assert deliver(unit.port, "a@sender.test", [BOB], message).is_accepted
    unit.stop()
    with Client(unit.port, limit_s=30.0) as waiting:
        unit.start()
        assert b"PIPELINING" in waiting.greet().wire
    final = deliver(unit.port, "a@sender.test", [BOB], message).final
    assert final is not None
    assert b"duplicate" in final.wire, "the list outlives the service, in its StateDirectory"
    assert len(sink.accepted) == 1


def test_watchdog_is_fed_while_the_downstream_hangs(unit: Unit, sink: Sink) -> None:
    """A downstream that says nothing must not get the gateway killed."""
    sink.answer("greeting", Answer(then=Then.SILENCE), always=True)
    unit.wait_for("WATCHDOG=1", unit.count("WATCHDOG=1") + 2)
    sink.cut()
    sink.forget()


def test_notifies_reloads_and_stops(unit: Unit) -> None:
    """READY, WATCHDOG, RELOADING, STOPPING come as sd_notify(3) has them; SIGTERM ends it well."""
    assert "STATUS=serving with 2 workers" in unit.states
    unit.reload()
    assert "RELOADING=1" in unit.states
    assert any(state.startswith("MONOTONIC_USEC=") for state in unit.states)
    wait_until(lambda: '"reloaded"' in unit.log(), "the log line")
    assert unit.stop() == 0
    assert unit.count("STOPPING=1") == 1
    assert unit.states[-1] == "STOPPING=1"


def test_watchdog_and_limits_go_with_the_code() -> None:
    """Several beats are missed before systemd acts, and it waits for as long as a drain takes."""
    assert int(SERVICE.get("Service", "WatchdogSec")) > 3 * service._TICK_S
    assert int(SERVICE.get("Service", "TimeoutStopSec")) > worker.DRAIN_S + 2 * supervisor._KILL_S
    assert int(SERVICE.get("Service", "TimeoutStartSec")) > supervisor._START_TIMEOUT_S


@pytest.mark.tool
def test_system_calls_are_in_the_filter(folder: Path, sink: Sink) -> None:
    """Every system call of a life with mail, reload and stop is one that the unit allows."""
    need("strace", "systemd-analyze:systemd")
    allowed = _allowed()
    config = configured(folder, sink)
    port = int(re.findall(r"127\.0\.0\.1:(\d+)", config.read_text())[0])
    table = folder / "calls"
    arguments = ["strace", "-f", "-c", "-S", "name", "-o", str(table)]
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
    child = start([*arguments, *command], folder / "log", folder=DEPLOY.parents[1])
    wait_until(lambda: '"serving"' in (folder / "log").read_text(), "it serves", 100.0, child)
    message = letter(fresh_id(), b"x" * 300_000 + b"\r\n")
    for _ in range(2):
        assert deliver(port, "a@sender.test", [BOB], message, limit_s=60.0).is_accepted
    (supervisor,) = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    os.kill(int(supervisor), 1)
    wait_until(lambda: '"reloaded"' in (folder / "log").read_text(), "it reloads", 60.0, child)
    os.kill(int(supervisor), 15)
    wait_until(lambda: not child.is_running, "it stops", 60.0)
    child.kill()
    used = {line.split()[-1] for line in table.read_text().splitlines()[2:] if line.strip()}
    # SQLite gives its files to the owner of the database if it runs as root, and only then.
    used -= {"total", "----------------", "fchown"}
    assert {"epoll_wait", "accept4"} & used, used
    assert used <= allowed, used - allowed


def _allowed() -> set[str]:
    """Return the system calls that SystemCallFilter= leaves, as systemd knows its sets."""
    left: set[str] = set()
    for value in SERVICE.all("SystemCallFilter"):
        names = {name for word in value.lstrip("~").split() for name in _members(word)}
        left = left - names if value.startswith("~") else left | names
    return left


def _members(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    done = subprocess.run(
        [program("systemd-analyze"), "--no-pager", "syscall-filter", word],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    inner = [line.strip() for line in done.stdout.splitlines()[1:]]
    found = {name for name in inner if name and not name.startswith(("#", "@"))}
    for name in inner:
        if name.startswith("@"):
            found |= _members(name)
    return found


@pytest.mark.tool
def test_systemd_finds_nothing_wrong(folder: Path) -> None:
    """`systemd-analyze verify` is silent, and its view of the exposure is what the docs say."""
    need("systemd-analyze:systemd")
    for name in ("mailonce.service", "mailonce.socket"):
        text = (DEPLOY / name).read_text().replace("/opt/mailonce/bin/mailonce", "/bin/true")
        (folder / name).write_text(text)
    units = [str(folder / "mailonce.service"), str(folder / "mailonce.socket")]
    command = [str(program("systemd-analyze")), "--no-pager"]
    verified = subprocess.run(
        [*command, "--man=no", "verify", *units],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = subprocess.run(
        [*command, "security", "--offline=yes", "--threshold=15", units[0]],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert judged.returncode == 0, judged.stdout
    found = re.search(r"exposure level for mailonce\.service: ([\d.]+) OK", judged.stdout)
    assert found is not None
    installation = (DEPLOY.parents[1] / "docs/installation.md").read_text()
    assert f"**{found[1]}**" in installation


def test_every_program_in_the_unit_exists() -> None:
    """What the unit runs: ours, as the installation puts it there, and the system's."""
    assert SERVICE.get("Service", "ExecStart").startswith("/opt/mailonce/bin/mailonce serve ")
    assert Path(SERVICE.get("Service", "ExecReload").split()[0]).exists()
    installation = (DEPLOY.parents[1] / "docs/installation.md").read_text()
    for path in ("/opt/mailonce", "/etc/mailonce/config.toml", "/etc/mailonce/secret"):
        assert path in installation
    listed = {path.name for path in DEPLOY.iterdir()}
    assert listed == {"mailonce.service", "mailonce.socket", "mailonce.sysusers"}
    assert all(f"deploy/systemd/{name}" in installation for name in listed)
