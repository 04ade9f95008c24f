"""``mailonce demo``: the whole gateway on one machine, with messages that show what it does.

Runs the real service on embedded defaults (a tracking list in SQLite, a Maildir as downstream),
sends it real messages over SMTP, tells what became of each and whether that is right, and then
keeps serving. Everything is in one folder. Fails with `ConfigError` if the folder or the addresses
cannot be used.
"""

from __future__ import annotations

import asyncio
import secrets
import smtplib
import socket
import time
import urllib.request
from collections import Counter
from pathlib import Path

import uvloop
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.text import Text

from gateway import wiring
from gateway.config import Config, load
from gateway.config.place import host_port
from gateway.demo.letter import counted, letters
from gateway.demo.page import console_of_stdout, tell_counts, tell_end, tell_outcomes, tell_where
from gateway.demo.place import (
    HOST,
    HOSTNAME,
    Place,
    configured,
    folder_at,
    listening,
    logging_to,
    place_in,
)
from gateway.demo.post import Post
from gateway.errors import GatewayError
from gateway.service import Service

_START_S = 60.0
_SETTLE_S = 3.0
_PAUSE_S = 0.05
_STOPPED = "Stopped before everything was sent."
# No proxy that the shell names is asked for what is on this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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
    console = console or console_of_stdout()
    with folder_at(folder) as absolute, listening() as opened:
        place = place_in(absolute, opened)
        config = configured(place)
        with logging_to(place.log_file):
            service = Service(config, lambda: load(place.config_file), opened)
            return uvloop.run(_show(service, place, config, console, is_once=is_once))


async def _show(
    service: Service, place: Place, config: Config, console: Console, *, is_once: bool
) -> bool:
    """Serve, and show what that does; whichever of the two ends first."""
    serving = asyncio.create_task(service.run())
    showing = asyncio.create_task(_sent(place, config, console))
    await asyncio.wait({serving, showing}, return_when=asyncio.FIRST_COMPLETED)
    is_right = False
    try:
        if showing.done():
            is_right = showing.result()
            if not is_once:
                tell_where(place, console)
                await serving
        elif service.is_stopping:
            console.print(_STOPPED)
    except (OSError, smtplib.SMTPException, GatewayError) as error:
        if service.is_stopping:  # by Ctrl-C: then it answers nobody, and nothing is wrong with it
            console.print(_STOPPED)
            return False
        console.print(Text(f"The gateway did not answer as a server does: {error}", style="red"))
        console.print(Text(f"Its log: {place.log_file}"))
    finally:
        service.stop()
        showing.cancel()
        # Its list is closed before the folder goes: else its thread would make the file once more.
        await asyncio.wait({showing})
        await serving
    return is_right


async def _sent(place: Place, config: Config, console: Console) -> bool:
    """Send everything, and print what became of it."""
    history = wiring.store_of(config)
    try:
        await asyncio.to_thread(_await_banner, place.smtp_port)
        post = Post(HOST, place.smtp_port, place.maildir, history)
        await post.prepare()
        sent = letters(secrets.token_hex(4), HOSTNAME)
        outcomes = [outcome for letter in sent for outcome in await post.send(letter)]
    finally:
        await history.close()
    tell_outcomes(outcomes, console)
    expected = counted(sent)
    found, problem = await asyncio.to_thread(_settled, place.http_port, expected)
    is_counted = found == expected
    tell_counts(found, problem, console, is_right=is_counted)
    is_right = is_counted and all(outcome.is_as_expected for outcome in outcomes)
    tell_end(console, is_right=is_right)
    return is_right


def _settled(port: int, expected: Counter[tuple[str, str]]) -> tuple[Counter[tuple[str, str]], str]:
    """Wait for ``/metrics`` to count what is expected, for a moment: it may lag behind a reply.

    Returns:
        What it counts in the end, and why it does not answer, ``""`` if it does.
    """
    found, problem = Counter[tuple[str, str]](), ""
    for _ in range(int(_SETTLE_S / _PAUSE_S)):
        try:
            found, problem = _counted_messages(port), ""
        except OSError as error:
            problem = f"it does not answer: {error}"
        if found == expected:
            break
        time.sleep(_PAUSE_S)
    return found, problem


def _counted_messages(port: int) -> Counter[tuple[str, str]]:
    """Return the messages that ``/metrics`` counts, by verdict and action.

    Raises:
        OSError: it does not answer.
    """
    url = f"http://{host_port(HOST, port)}/metrics"
    with _DIRECT.open(url, timeout=_SETTLE_S) as answer:
        text = answer.read().decode()
    return Counter(
        {
            (sample.labels["verdict"], sample.labels["action"]): int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "mailonce_messages_total" and sample.value
        }
    )


def _await_banner(port: int) -> None:
    """Wait until the gateway greets its clients.

    Raises:
        OSError: it does not, in time.
    """
    with socket.create_connection((HOST, port), timeout=_START_S) as connection:
        connection.recv(1)
