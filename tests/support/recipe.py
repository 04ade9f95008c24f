"""The recipes of deploy/postfix/, run from exactly their files.

Only what cannot be the same on a test machine is put in the place of what stands there: ports,
paths, addresses. What is to be replaced must be there: a recipe that has changed is noticed.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.certificate import Pair, make_certificate
from tests.support.dovecot import running_dovecot
from tests.support.gateway import Gateway
from tests.support.need import need, program
from tests.support.postfix import Postfix, Service, running_postfix
from tests.support.process import can_connect, free_port, start, temporary_folder, wait_until
from tests.support.sink import Sink

DEPLOY = Path(__file__).parents[2] / "deploy"
USERS = ("bob@example.org", "carol@example.org")
TEAM = "team@example.org"
"""An alias of bob, in recipes that expand aliases before mailonce."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One folder of deploy/postfix/.

    Attributes:
        folder: itself.
        places: what stands in the files -> what a test puts there.
    """

    folder: Path
    places: Mapping[str, str]

    def text(self, name: str) -> str:
        """Return one of its files, with everything in its place."""
        return self.placed((self.folder / name).read_text())

    def placed(self, text: str) -> str:
        """Put everything in its place; loopback ports that nothing is said of stay."""
        for there, here in self.places.items():
            text = text.replace(there, here)
        return text

    def main(self) -> dict[str, str]:
        """Return its main.cf as parameters."""
        lines = [line for line in self.text("main.cf").splitlines() if line[:1] not in ("", "#")]
        pairs = (line.partition("=") for line in lines)
        return {name.strip(): value.strip() for name, _, value in pairs}

    def settings(self) -> dict[str, Any]:
        """Return its config.toml by dotted keys."""
        tables = tomllib.loads(self.text("config.toml"))
        flat: dict[str, Any] = {}
        for name, value in tables.items():
            if isinstance(value, dict):
                flat.update({f"{name}.{key}": inner for key, inner in value.items()})
            else:
                flat[name] = value
        return flat

    def command(self, heading: str) -> str:
        """Return the root command under a heading of its README, with everything in its place."""
        readme = (self.folder / "README.md").read_text()
        section = readme.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        (found,) = re.findall(r"^ *# (.*)$", section, re.MULTILINE)
        return self.placed(found)


@dataclass(slots=True)
class Site:
    """A recipe that runs.

    Attributes:
        recipe: its files.
        gateway: mailonce.
        postfix: the Postfix whose log tells of mail; where there are two, the one behind.
        front: the one before, if there are two.
        port: where its clients send to.
        source: address that a client can have, as Postfix should see it.
        delivered: returns what has come to mailboxes: recipient and message, in order.
        empty: empties the mailboxes.
        doors: ports of smtpd, by name.
    """

    recipe: Recipe
    gateway: Gateway
    postfix: Postfix
    port: int
    delivered: Callable[[], Sequence[tuple[str, bytes]]]
    empty: Callable[[], None]
    front: Postfix | None = None
    source: str = "127.0.0.9"
    doors: dict[str, int] = field(default_factory=dict)

    def forget(self) -> None:
        """Empty the mailboxes, once all that was accepted before is in them."""
        for postfix in (self.front, self.postfix):  # as mail flows
            if postfix is not None:
                postfix.wait_until_idle()
        self.empty()

    def wait_for(self, count: int) -> list[tuple[str, bytes]]:
        """Wait until so many copies are in mailboxes, and return all."""
        wait_until(lambda: len(self.delivered()) >= count, f"{count} copies")
        return list(self.delivered())

    def run_command(self, heading: str) -> None:
        """Run the command under a heading of the README, as root would.

        Postfix's commands are the real ones; `systemctl` does what it would to this gateway, and
        `socat` talks to HAProxy's socket.
        """
        outer = self.front or self.postfix
        shims = self.gateway.folder / "bin"
        shims.mkdir(exist_ok=True)
        _write_program(shims / "systemctl", _SYSTEMCTL.format(pid=self.gateway.pid))
        _write_program(shims / "socat", _SOCAT)
        environment = {
            **os.environ,
            "MAIL_CONFIG": str(outer.configuration),
            "PATH": f"{shims}:{program('postconf').parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.recipe.command(heading)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr


_SYSTEMCTL = """#!/bin/sh
# Stands in for systemctl where no systemd runs: stops the gateway, waits until it has ended, as
# `systemctl disable --now` and `systemctl stop` do.
case "$1" in
  disable|stop)
    kill -TERM {pid}
    while [ -e /proc/{pid}/exe ]; do sleep 0.02; done ;;
  *) echo "not known here: $*" >&2; exit 1 ;;
esac
"""
_SOCAT = """#!/usr/bin/env python3
import socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[2])
    client.sendall(sys.stdin.buffer.read())
    client.shutdown(socket.SHUT_WR)
    answer = client.recv(4096).decode().strip()
    if answer:
        sys.exit(answer)
"""


def _write_program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def recipe(name: str, places: Mapping[str, str]) -> Recipe:
    """Read a recipe, and see that what is to be replaced is there."""
    folder = DEPLOY / "postfix" / name
    files = ("main.cf", "master.cf", "config.toml", "README.md", "haproxy.cfg", "dovecot.conf")
    text = "".join((folder / f).read_text() for f in files if (folder / f).exists())
    missing = [there for there in places if there not in text]
    assert not missing, f"{name} does not hold {missing}"
    return Recipe(folder, places)


def with_certificate(pair: Pair) -> dict[str, str]:
    """Return what a postmaster does to the recipe mx-edge to have STARTTLS."""
    return {
        '# certificate = "/etc/mailonce/tls/fullchain.pem"': f'certificate = "{pair.certificate}"',
        '# key = "/etc/mailonce/tls/privkey.pem"': f'key = "{pair.key}"',
    }


def _at(port: int) -> str:
    return f"127.0.0.1:{port}"


@contextmanager
def running_site(name: str) -> Iterator[Site]:
    """Run a recipe: its Postfix, mailonce, and what stands before and behind."""
    with ExitStack() as stack:
        yield _SITES[name](stack)


def start_gateway(stack: ExitStack, made: Recipe, port: int, http_port: int = 0) -> Gateway:
    """Start mailonce as the recipe configures it, with a SQLite list of its own."""
    folder = stack.enter_context(temporary_folder("mailonce"))
    settings = {
        "hostname": "postfix.test",  # one machine, one name: as most will have it
        "store.url": f"sqlite://{folder}/seen.db",
        "store.timeout": "20s",  # what a busy machine's disk is late with passes unchecked
        "workers": 1,
        "log.format": "json",
    }
    gateway = Gateway(folder, {}, {})
    gateway.port = port
    gateway.http_port = http_port or gateway.http_port
    gateway.settings = {
        "listen.http": _at(gateway.http_port),
        **made.settings(),
        **settings,
    }
    stack.callback(gateway.stop)
    gateway.start()
    return gateway


def _sink_of(stack: ExitStack) -> tuple[Sink, str]:
    sink = stack.enter_context(Sink())
    return sink, f"smtp:[127.0.0.1]:{sink.port}"


def _mx_edge(stack: ExitStack) -> Site:
    port, door = free_port(), free_port()
    folder = stack.enter_context(temporary_folder("tls"))
    pair = make_certificate(folder, "postfix.test")
    made = recipe(
        "mx-edge",
        {
            "[::]:25": f"[::]:{port}",
            "127.0.0.1:10026": _at(door),
            **with_certificate(pair),
            "smtp/inet=smtp inet": f"{_at(port)}/inet={_at(port)} inet",
        },
    )
    sink, transport = _sink_of(stack)
    postfix = stack.enter_context(
        running_postfix(main=made.main(), master=made.text("master.cf"), passes_to=transport)
    )
    gateway = start_gateway(stack, made, port)
    return Site(made, gateway, postfix, port, sink.deliveries, sink.forget, doors={"behind": door})


def _proxy_filter(stack: ExitStack) -> Site:
    port, middle, door = free_port(), free_port(), free_port()
    made = recipe(
        "proxy-filter",
        {
            "127.0.0.1:10025": _at(middle),
            "127.0.0.1:10026": _at(door),
            "smtp      inet": f"127.0.0.1:{port} inet",
            "smtp/inet": f"127.0.0.1:{port}/inet",
        },
    )
    sink, transport = _sink_of(stack)
    # While mailonce is down Postfix writes to its postmaster, which is no message of a test's.
    main = {**made.main(), "notify_classes": ""}
    postfix = stack.enter_context(
        running_postfix(main=main, master=made.text("master.cf"), passes_to=transport)
    )
    gateway = start_gateway(stack, made, middle)
    return Site(made, gateway, postfix, port, sink.deliveries, sink.forget, doors={"behind": door})


def _relayhost(stack: ExitStack) -> Site:
    middle, behind = free_port(), free_port()
    made = recipe(
        "relayhost",
        {
            "[127.0.0.1]:2525": f"[127.0.0.1]:{middle}",
            "127.0.0.1:2525": _at(middle),
            "192.0.2.25:25": _at(behind),
            "[192.0.2.25]": f"[127.0.0.1]:{behind}",
            "smtp      inet": f"127.0.0.1:{behind} inet",
        },
    )
    sink, transport = _sink_of(stack)
    postfix = stack.enter_context(
        running_postfix(
            main={"myhostname": "mailboxes.test"},
            master=made.text("master.cf"),
            passes_to=transport,
        )
    )
    front = stack.enter_context(
        # `postqueue -f` asks for it.
        running_postfix(Service(), main=made.main(), master="pickup unix n - n 60 1 pickup")
    )
    # This one sends what it takes.
    front.command("postconf", "-X", "smtpd_client_restrictions")
    gateway = start_gateway(stack, made, middle)
    return Site(made, gateway, postfix, front.port, sink.deliveries, sink.forget, front)


def _lmtp(stack: ExitStack) -> Site:
    middle = free_port()
    folder = stack.enter_context(temporary_folder("lmtp"))
    made = recipe(
        "lmtp",
        {
            "[127.0.0.1]:2525": f"[127.0.0.1]:{middle}",
            "127.0.0.1:2525": _at(middle),
            "/run/dovecot/mailonce": f"{folder}/lmtp",
            "user = mailonce": "user = root",
            "lmtp:unix:private/dovecot-lmtp": "lmtp:inet:127.0.0.1:",
        },
    )
    dovecot = stack.enter_context(running_dovecot(USERS, more=made.text("dovecot.conf")))
    made = Recipe(
        made.folder,
        {**made.places, "lmtp:unix:private/dovecot-lmtp": f"lmtp:inet:{_at(dovecot.port)}"},
    )
    main = {
        **made.main(),
        "relay_domains": "",
        "virtual_mailbox_domains": "example.org",
        "virtual_mailbox_maps": "",
        "virtual_alias_maps": f"inline:{{{TEAM}={USERS[0]}}}",
    }
    postfix = stack.enter_context(
        running_postfix(Service(), main=main, master=made.text("master.cf"))
    )
    postfix.command("postconf", "-X", "smtpd_client_restrictions")
    gateway = start_gateway(stack, made, middle)
    seen: dict[str, int] = dict.fromkeys(USERS, 0)

    def delivered() -> list[tuple[str, bytes]]:
        return [
            (user, _without_trace(message))
            for user in USERS
            for message in dovecot.messages(user)[seen[user] :]
        ]

    def forget() -> None:
        seen.update({user: len(dovecot.messages(user)) for user in USERS})

    return Site(made, gateway, postfix, postfix.port, delivered, forget)


def _haproxy(stack: ExitStack) -> Site:
    need("haproxy")
    port, middle, http, behind, direct = (free_port() for _ in range(5))
    folder = stack.enter_context(temporary_folder("haproxy"))
    made = recipe(
        "haproxy",
        {
            "bind :25": f"bind 127.0.0.1:{port}",
            "[::]:25 v6only": f"[::1]:{port} v6only",
            "127.0.0.1:2525": _at(middle),
            "127.0.0.1:9125": _at(http),
            "check port 9125": f"check port {http}",
            "127.0.0.1:10026": _at(behind),
            "127.0.0.1:10027": _at(direct),
            "/run/haproxy/admin.sock": f"{folder}/admin.sock",
        },
    )
    sink, transport = _sink_of(stack)
    postfix = stack.enter_context(
        running_postfix(main=made.main(), master=made.text("master.cf"), passes_to=transport)
    )
    gateway = start_gateway(stack, made, middle, http)
    (folder / "haproxy.cfg").write_text(made.text("haproxy.cfg"))
    child = start([program("haproxy"), "-db", "-f", folder / "haproxy.cfg"], folder / "haproxy.log")
    stack.callback(child.kill)
    wait_until(lambda: can_connect(port), "HAProxy starts", child=child)
    return Site(
        made,
        gateway,
        postfix,
        port,
        sink.deliveries,
        sink.forget,
        doors={"behind": behind, "direct": direct},
    )


def _without_trace(message: bytes) -> bytes:
    """Take away what Dovecot puts on top, down to Postfix's Received field."""
    return re.sub(
        rb"\A(?:(?:Return-Path|Delivered-To|Received|\tby|\t\(envelope|\tfor).*\r\n)+?"
        rb"(?=Received: from [^\r]*\r\n\tby postfix|X-Mailonce)",
        b"",
        message,
    )


_SITES: Mapping[str, Callable[[ExitStack], Site]] = {
    "mx-edge": _mx_edge,
    "proxy-filter": _proxy_filter,
    "relayhost": _relayhost,
    "lmtp": _lmtp,
    "haproxy": _haproxy,
}
NAMES = tuple(_SITES)
"""Of all recipes but the milter's, which has a test of its own."""
