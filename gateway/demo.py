"""``mailonce demo``: the whole gateway on one machine, with messages that show what it does.

Runs the real service on embedded defaults (a tracking list in SQLite, a Maildir as downstream),
sends it real messages over SMTP, tells what became of each and whether that is right, and then
keeps serving. Everything is in one folder. Fails with `ConfigError` if the folder or the addresses
cannot be used.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import smtplib
import socket
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import uvloop
from prometheus_client.parser import text_string_to_metric_families
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway import wiring
from gateway.config import Config, load
from gateway.config_place import host_port
from gateway.demo_letter import CAROL, Letter, counted, letters
from gateway.demo_post import Outcome, Post
from gateway.errors import ConfigError, GatewayError
from gateway.service import Service

_HOST = "127.0.0.1"
_SMTP_PORT = 2525
_HTTP_PORT = 9125
_HOSTNAME = "demo.mailonce.example"
_START_S = 20.0
_SETTLE_S = 3.0
_PAUSE_S = 0.05
_WIDTH = 132
_TEXT_WIDTH = 42
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


def run(folder: Path | None, *, is_once: bool, console: Console | None = None) -> bool:
    """Run the demo.

    Args:
        folder: to keep everything in; None for a temporary one that is removed at the end.
        is_once: end after the table; otherwise serve until SIGINT or SIGTERM.
        console: to print on; None for standard output.

    Returns:
        Whether everything went as expected.

    Raises:
        ConfigError: the folder, or an address, cannot be used.
    """
    console = console or _console()
    with _folder(folder) as absolute:
        place = Place(absolute, _port(_SMTP_PORT), _port(_HTTP_PORT))
        config = _written(place)
        with _logging_to(place.log_file):
            return uvloop.run(_show(place, config, console, is_once=is_once))


async def _show(place: Place, config: Config, console: Console, *, is_once: bool) -> bool:
    """Serve, and show what that does; whichever of the two ends first."""
    service = Service(config, lambda: load(place.config_file))
    serving = asyncio.create_task(service.run())
    showing = asyncio.create_task(_sent(place, config, console))
    await asyncio.wait({serving, showing}, return_when=asyncio.FIRST_COMPLETED)
    is_right = False
    try:
        if showing.done():
            is_right = showing.result()
            if not is_once:
                _tell_where(place, console)
                await serving
    except (OSError, smtplib.SMTPException, GatewayError) as error:
        console.print(Text(f"The gateway did not answer as a server does: {error}", style="red"))
        console.print(Text(f"Its log: {place.log_file}"))
    finally:
        service.stop()
        showing.cancel()
        await serving
    return is_right


async def _sent(place: Place, config: Config, console: Console) -> bool:
    """Send everything, and print what became of it."""
    history = wiring.store_of(config)
    try:
        await asyncio.to_thread(_await_banner, place.smtp_port)
        post = Post(_HOST, place.smtp_port, place.maildir, history)
        await post.prepare()
        sent = letters(secrets.token_hex(4), _HOSTNAME)
        outcomes = [outcome for letter in sent for outcome in await post.send(letter)]
    finally:
        await history.close()
    console.print(_table(outcomes))
    is_counted = await asyncio.to_thread(_tell_metrics, place.http_port, sent, console)
    is_right = is_counted and all(outcome.is_as_expected for outcome in outcomes)
    verdict = Text("All of it is as it should be.", style="green")
    if not is_right:
        verdict = Text("Something is not as it should be: see the rows marked ✗.", style="bold red")
    console.print(verdict)
    return is_right


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="What became of each message", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("sent", "for", "expected", "reply", "verdict, action", "delivered, and added"):
        table.add_column(heading, overflow="fold")
    for outcome in outcomes:
        expected = outcome.letter.expected
        is_right = outcome.is_as_expected
        table.add_row(
            Text("✓", style="green") if is_right else Text("✗", style="bold red"),
            Text(outcome.letter.title),
            Text("\n".join(_short(recipient) for recipient in outcome.letter.recipients)),
            Text(f"{expected.code}, {_copies(len(expected.delivered))}"),
            Text(_cut(f"{outcome.code} {outcome.reply}"), style="dim"),
            Text("\n".join(f"{made.verdict}, {made.action}" for _, made in outcome.decisions)),
            Text("\n".join(_told(outcome)) or "nothing"),
        )
    return table


def _told(outcome: Outcome) -> Iterator[str]:
    """Say what is in the Maildir."""
    for item in outcome.delivered:
        yield f"to {_short(item.recipient)}" + ("" if item.is_intact else ", ALTERED")
        if item.field:
            yield _cut(_abridged(item.field))


def _abridged(field: str) -> str:
    """Leave out of X-Mailonce what is the same in every row."""
    parts = field.split("; ")
    return "; ".join(part for part in parts if not part.startswith(("first-seen=", "by=")))


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_WIDTH else f"{text[: _TEXT_WIDTH - 1]}…"


def _copies(number: int) -> str:
    return {0: "no copy", 1: "1 copy"}.get(number, f"{number} copies")


def _short(address: str) -> str:
    return address.partition("@")[0]


def _tell_metrics(port: int, sent: Sequence[Letter], console: Console) -> bool:
    """Print what ``/metrics`` counts, and say whether it is what was sent."""
    expected, found = counted(sent), Counter[tuple[str, str]]()
    problem = ""
    for _ in range(int(_SETTLE_S / _PAUSE_S)):
        try:
            found, problem = _counted_messages(port), ""
        except OSError as error:
            problem = f"/metrics does not answer: {error}"
        if found == expected:
            break
        time.sleep(_PAUSE_S)
    is_right = found == expected
    parts = [f"{number} {verdict}, {action}" for (verdict, action), number in sorted(found.items())]
    mark = Text("✓ ", style="green") if is_right else Text("✗ ", style="bold red")
    console.print(mark + Text(f"/metrics counts: {problem or '; '.join(parts) or 'nothing'}\n"))
    return is_right


def _counted_messages(port: int) -> Counter[tuple[str, str]]:
    """Return the messages that ``/metrics`` counts, by verdict and action.

    Raises:
        OSError: it does not answer.
    """
    url = f"http://{host_port(_HOST, port)}/metrics"
    with urllib.request.urlopen(url, timeout=_SETTLE_S) as answer:
        text = answer.read().decode()
    return Counter(
        {
            (sample.labels["verdict"], sample.labels["action"]): int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "mailonce_messages_total" and sample.value
        }
    )


def _tell_where(place: Place, console: Console) -> None:
    """Print where to look while it serves."""
    smtp = host_port(_HOST, place.smtp_port)
    web = f"http://{host_port(_HOST, place.http_port)}"
    table = Table(
        box=None, show_header=False, title="\nStill serving, until Ctrl-C", title_justify="left"
    )
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, where in (
        ("SMTP", f"{smtp}   (any recipient; {CAROL} gets duplicates tagged)"),
        ("console", f"{web}/"),
        ("metrics", f"{web}/metrics"),
        ("delivered", f"{place.maildir}/new"),
        ("log", str(place.log_file)),
        ("one message", f"mailonce trace MESSAGE-ID --config {place.config_file}"),
    ):
        table.add_row(name, Text(where))
    console.print(table)


def _console() -> Console:
    """Return a console for standard output; a pipe or file has no width, so it gets one."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)


@contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
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


def _written(place: Place) -> Config:
    """Write the configuration and read it, as `serve` would."""
    text = _CONFIG.format(
        hostname=_HOSTNAME,
        smtp=host_port(_HOST, place.smtp_port),
        http=host_port(_HOST, place.http_port),
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


def _kept_secret(place: Place) -> str:
    """Return the secret of an earlier run in the same folder, or a new one."""
    if place.config_file.exists():
        with suppress(ConfigError):
            return load(place.config_file).store.secret.get_secret_value()
    return secrets.token_hex(16)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
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


def _port(wanted: int) -> int:
    """Return a loopback port that is free: the one wanted, if it is."""
    for port in (wanted, 0):
        with suppress(OSError), socket.create_server((_HOST, port)) as listener:
            return int(listener.getsockname()[1])
    raise ConfigError((f"listen.smtp: no port is free on {_HOST}",))


def _await_banner(port: int) -> None:
    """Wait until the gateway greets its clients.

    Raises:
        OSError: it does not, in time.
    """
    give_up_at = time.monotonic() + _START_S
    while True:
        try:
            with socket.create_connection((_HOST, port), timeout=_START_S) as connection:
                connection.recv(1)
        except ConnectionRefusedError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(_PAUSE_S)
        else:
            return
