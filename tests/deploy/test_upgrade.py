"""Upgrade and roll-back of the MX edge while mail comes in: no message lost, none twice."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.certificate import make_certificate
from tests.support.client import ClosedError, deliver
from tests.support.gateway import as_toml
from tests.support.letter import letter
from tests.support.need import program
from tests.support.postfix import Postfix, running_postfix
from tests.support.process import free_port, temporary_folder, wait_until
from tests.support.recipe import Recipe, recipe, with_certificate
from tests.support.sink import Sink
from tests.support.unit import Unit

pytestmark = [pytest.mark.postfix, pytest.mark.xdist_group("upgrade")]

BOB = "bob@example.org"
_CLIENTS = 4


class Load:
    """Clients that send message after message, each until it is accepted, as real ones do.

    Attributes:
        accepted: Message-IDs, once for each 250.
        refused: how often a try came to nothing.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(_CLIENTS)]
        self.accepted: list[str] = []
        self.refused = 0
        for thread in self._threads:
            thread.start()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more messages are accepted."""
        enough = len(self.accepted) + count
        wait_until(lambda: len(self.accepted) >= enough, f"{count} messages more", 60.0)

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)

    def _send(self, number: int) -> None:
        serial = 0
        while not self._is_over.is_set():
            serial += 1
            message_id = f"{serial}.{number}@load.test"
            while not self._is_accepted(message_id):
                self.refused += 1
                time.sleep(0.02)  # a client that is refused comes back later
            self.accepted.append(message_id)

    def _is_accepted(self, message_id: str) -> bool:
        message = letter(message_id, b"x" * 2000 + b"\r\n")
        try:
            return deliver(self._port, "a@sender.test", [BOB], message).is_accepted
        except (OSError, ClosedError, AssertionError):  # no connection, or 421 for a greeting
            return False


class Edge:
    """The recipe with the units of deploy/systemd/."""

    def __init__(self, made: Recipe, unit: Unit, postfix: Postfix, sink: Sink) -> None:
        self.made, self.unit, self.postfix, self.sink = made, unit, postfix, sink

    def roll_back(self) -> None:
        """Run the command of the README; where it says systemctl, our systemd does it."""
        systemctl, *rest = self.made.command("Roll back").split(" && ")
        assert systemctl == "systemctl disable --now mailonce.socket mailonce.service"
        self.unit.stop_listening()
        assert self.unit.stop() == 0
        path = f"{program('postconf').parent}:{os.environ['PATH']}"
        environment = {"MAIL_CONFIG": str(self.postfix.configuration), "PATH": path}
        command = ["bash", "-euc", " && ".join(rest)]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)


@pytest.fixture
def edge() -> Iterator[Edge]:
    with temporary_folder("edge") as folder, Sink() as sink:
        pair = make_certificate(folder, "postfix.test")
        door = free_port()
        config = folder / "config.toml"
        unit = Unit(folder, config)
        made = recipe(
            "mx-edge",
            {
                "127.0.0.1:10026": f"127.0.0.1:{door}",
                **with_certificate(pair),
                "smtp/inet=smtp": f"127.0.0.1:{unit.port}/inet=127.0.0.1:{unit.port}",
            },
        )
        own = {
            "hostname": "postfix.test",
            "listen.smtp": [f"127.0.0.1:{free_port()}"],
            "listen.http": "",
            "store.url": f"sqlite://{folder}/mailonce/seen.db",
            "store.timeout": "20s",
            "workers": 2,
        }
        config.write_text(as_toml({**made.settings(), **own}))
        with running_postfix(
            main=made.main(),
            master=made.text("master.cf"),
            passes_to=f"smtp:[127.0.0.1]:{sink.port}",
        ) as postfix:
            try:
                unit.start()
                yield Edge(made, unit, postfix, sink)
            finally:
                unit.close()


@pytest.mark.slow
def test_p1_nothing_is_lost_by_upgrade_and_roll_back(edge: Edge) -> None:
    """P1: what any client was told is accepted arrives, and arrives once."""
    load = Load(edge.unit.port)
    try:
        load.wait_for_more(40)
        edge.unit.stop()  # systemctl restart, after the new version has been installed
        edge.unit.start()
        load.wait_for_more(40)
        edge.roll_back()
        load.wait_for_more(40)
    finally:
        load.stop()
    sent = set(load.accepted)
    assert len(sent) == len(load.accepted)
    wait_until(lambda: len(edge.sink.deliveries()) >= len(sent), "all of it", 60.0)
    arrived = Counter(_message_id(message) for _, message in edge.sink.deliveries())
    assert not sent - set(arrived), "lost"
    assert [message_id for message_id, times in arrived.items() if times > 1] == []
    log = edge.postfix.log()
    assert "postfix/mailonce/smtpd" in log
    assert "postfix/smtpd" in log, "after the roll-back Postfix takes mail by itself"


def _message_id(message: bytes) -> str:
    return message.partition(b"Message-ID: <")[2].partition(b">")[0].decode()
