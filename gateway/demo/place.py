"""Where a demo is: its folder, its addresses, its configuration, its log.

Fails with `ConfigError` if the folder or the addresses cannot be used.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.config import Config, load
from gateway.config.place import host_port
from gateway.demo.letter import CAROL
from gateway.errors import ConfigError

HOST = "127.0.0.1"
HOSTNAME = "demo.mailonce.example"
"""Ours, and right of the @ in the ids of the demo's messages."""

_SMTP_PORT = 2525
_HTTP_PORT = 9125
_BACKLOG = 100
_CONFIG = """\
# Written by `mailonce demo`. The other commands understand it too.
hostname = "{hostname}"

[listen]
smtp = ["{smtp}"]
http = "{http}"

[downstream]
servers = ["maildir://{folder}/Maildir"]

[store]
url = "sqlite://{folder}/seen.db"
timeout = "10s"
secret = "{secret}"

[dedup]
action = "drop"
in_flight_wait = "200ms"

[journal]
keep = "all"

[[policy]]
recipients = ["{carol}"]
action = "tag"
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything of a demo is.

    Attributes:
        folder: absolute.
        smtp_port: on loopback.
        http_port: on loopback.
    """

    folder: Path
    smtp_port: int
    http_port: int

    @property
    def config_file(self) -> Path:
        """The configuration, for the other commands."""
        return self.folder / "demo.toml"

    @property
    def log_file(self) -> Path:
        """What the gateway logs."""
        return self.folder / "mailonce.log"

    @property
    def maildir(self) -> Path:
        """What was delivered."""
        return self.folder / "Maildir"


@contextmanager
def listening() -> Iterator[Mapping[str, list[socket.socket]]]:
    """Listen on loopback ports, by what for; they are ours from now on, not only free.

    Raises:
        ConfigError: no port is free.
    """
    with _listener(_SMTP_PORT) as smtp, _listener(_HTTP_PORT) as http:
        yield {"smtp": [smtp], "http": [http]}


def place_in(folder: Path, opened: Mapping[str, list[socket.socket]]) -> Place:
    """Return a place in a folder, at the ports that are listened on."""
    ports = {name: listener.getsockname()[1] for name, (listener,) in opened.items()}
    return Place(folder, ports["smtp"], ports["http"])


@contextmanager
def folder_at(wanted: Path | None) -> Iterator[Path]:
    """Have a folder to keep everything in."""
    if wanted is not None:
        try:
            wanted.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError((f"{wanted}: cannot be made: {error.strerror}",)) from error
        yield wanted.resolve()
        return
    path = Path(tempfile.mkdtemp(prefix="mailonce-demo-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def configured(place: Place) -> Config:
    """Write the configuration and read it, as `serve` would."""
    text = _CONFIG.format(
        hostname=HOSTNAME,
        smtp=host_port(HOST, place.smtp_port),
        http=host_port(HOST, place.http_port),
        folder=place.folder,
        secret=_kept_secret(place),
        carol=CAROL,
    )
    try:
        place.config_file.write_text(text, encoding="utf-8")
    except OSError as error:
        problem = f"{place.config_file}: cannot be written: {error.strerror}"
        raise ConfigError((problem,)) from error
    return load(place.config_file)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Have all that is written to standard error, by us and by the workers, go to a file."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise ConfigError((f"{path}: cannot be written: {error.strerror}",)) from error
    terminal = os.dup(2)
    os.dup2(file, 2)
    os.close(file)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def _kept_secret(place: Place) -> str:
    """Return the secret of an earlier run in the same folder, or a new one."""
    if place.config_file.exists():
        with suppress(ConfigError):
            return load(place.config_file).store.secret.get_secret_value()
    return secrets.token_hex(16)


def _listener(wanted: int) -> socket.socket:
    """Listen on the port that is wanted, or on any if somebody has it."""
    for port in (wanted, 0):
        with suppress(OSError):
            listener = socket.create_server((HOST, port), backlog=_BACKLOG)
            listener.setblocking(False)
            return listener
    raise ConfigError((f"listen.smtp: no port is free on {HOST}",))
