"""Supervisor and workers: who dies is replaced, who stops finishes, a reload keeps sessions."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.certificate import make_certificate
from tests.support.client import Client, ClosedError, deliver, deliver_over
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.process import temporary_folder, wait_until
from tests.support.recording import Answer as Said
from tests.support.sink import Sink

X = "x@example.org"
STOPPING = b"421 4.3.2 Service is stopping, try again later\r\n"
DUPLICATE = b"250 2.0.0 Ok: duplicate of an already accepted message, not delivered again\r\n"
_SENDERS = 6


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server


class Load:
    """Senders that send one message after another, each until it is accepted.

    Attributes:
        accepted: messages that are no longer ours.
        refused: connections that nobody took.
        replies: all final ones, by code.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._current: dict[int, bytes] = {}
        self.accepted: list[bytes] = []
        self.refused = 0
        self.replies: Counter[int] = Counter()
        self._threads = [
            threading.Thread(target=self._send, args=(number,)) for number in range(_SENDERS)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def outstanding(self) -> list[bytes]:
        """Return messages that their senders still have, once they have stopped."""
        return list(self._current.values())

    def wait_for(self, count: int, limit_s: float = 30.0) -> None:
        """Wait until so many more messages were accepted."""
        wanted = len(self.accepted) + count
        wait_until(lambda: len(self.accepted) >= wanted, f"{count} more messages", limit_s)

    def _send(self, number: int) -> None:
        tries = 0
        while not self._stopping.is_set():
            message = self._current.get(number)
            if message is None or tries > 3:
                # A copy whose worker died is put off until its claim ends; others need not wait.
                number += _SENDERS if message is not None else 0
                self._current[number] = message = letter(fresh_id())
                tries = 0
            tries += 1
            try:
                source = f"127.0.0.{2 + number % 200}"
                delivery = deliver(self._gateway.port, "a@b.test", [X], message, source=source)
            except OSError:
                with self._lock:
                    self.refused += 1
                continue
            with self._lock:
                if delivery.final is not None:
                    self.replies[delivery.final.code] += 1
                if delivery.is_accepted:
                    self.accepted.append(message)
                    del self._current[number]


def _all_delivered(sink: Sink, load: Load) -> None:
    """P1: what was accepted has arrived."""
    delivered = {message for _, message in sink.deliveries()}
    lost = [message for message in load.accepted if message not in delivered]
    assert not lost, f"{len(lost)} of {len(load.accepted)} lost"


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def test_a_killed_worker_is_replaced_and_nothing_is_lost(sink: Sink) -> None:
    """The others go on, clients of the dead one try again, counters are sums and never go back."""
    settings = {**settings_for(sink.port), "workers": 2, "dedup.in_flight_wait": "100ms"}
    with running_gateway(settings) as gateway:
        with Load(gateway) as load:
            load.wait_for(50)
            counted = gateway.metric("mailonce_messages_total")
            assert counted >= 50 - _SENDERS
            dead, other = gateway.worker_pids
            os.kill(dead, signal.SIGKILL)
            load.wait_for(50)
            wait_until(
                lambda: gateway.metric("mailonce_worker_restarts_total") == 1, "a new worker", 40.0
            )
            assert dead not in gateway.worker_pids
            assert len(gateway.worker_pids) == 2
            load.wait_for(50)
        assert other in gateway.worker_pids
        assert load.refused == 0, "the listening socket is the supervisor's"
        assert set(load.replies) <= {250, 451}
        _all_delivered(sink, load)
        assert len(load.outstanding) <= 2 * _SENDERS
        # A busy machine's SQLite is slow: what could not be checked was tagged.
        relayed = sum(
            gateway.metric("mailonce_messages_total", action=action)
            for action in ("relayed", "tagged")
        )
        assert relayed >= counted
        # What the dead one had relayed and not yet counted is at most a message per sender.
        assert len(load.accepted) - _SENDERS <= relayed <= len(load.accepted) + _SENDERS
        wait_until(lambda: gateway.metric("mailonce_sessions") == 0, "its sessions are forgotten")


def test_the_limit_per_client_holds_over_workers(sink: Sink) -> None:
    settings = {
        **settings_for(sink.port),
        "workers": 2,
        "limits.sessions_per_client": 5,
        "limits.sessions": 9,
    }
    with running_gateway(settings) as gateway, contextlib.ExitStack() as stack:

        def greeted(source: str) -> list[Client]:
            clients = [stack.enter_context(Client(gateway.port, source=source)) for _ in range(12)]
            codes = [(client.answer().code, client) for client in clients]
            assert {code for code, _ in codes} <= {220, 421}
            return [client for code, client in codes if code == 220]

        within = greeted("127.0.0.9")
        assert len(within) == 5
        assert len(greeted("127.0.0.10")) == 4, "the limit over all clients"
        within[0].command("QUIT")
        wait_until(lambda: gateway.metric("mailonce_sessions") == 8, "one has left")
        assert len(greeted("127.0.0.9")) == 1


def _served_serial(port: int) -> bytes:
    """Return the certificate that a new session is shown."""
    with Client(port) as client:
        client.greet()
        assert client.start_tls().code == 220
        shown = client._socket
        assert isinstance(shown, ssl.SSLSocket)
        certificate = shown.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate


def test_a_reload_under_load_keeps_sessions_and_changes_the_rest(sink: Sink) -> None:
    with temporary_folder("tls") as folder:
        old = make_certificate(folder, "gateway.test")
        settings = {
            **settings_for(sink.port),
            "workers": 2,
            "tls.certificate": str(old.certificate),
            "tls.key": str(old.key),
        }
        with running_gateway(settings) as gateway, Client(gateway.port) as client:
            client.greet()
            message = letter(fresh_id())
            assert deliver_over(client, "a@b.test", [X], message).is_accepted
            client.command("MAIL FROM:<open@b.test>")
            serial = _served_serial(gateway.port)
            with Load(gateway) as load:
                load.wait_for(20)
                gateway.reload({"dedup.action": "drop", "limits.recipients": 1})
                load.wait_for(20)
                (folder / "new").mkdir()
                new = make_certificate(folder / "new", "gateway.test")
                new.key.replace(old.key)
                new.certificate.replace(old.certificate)
                # Nobody says a word: the files are looked at.
                wait_until(lambda: _served_serial(gateway.port) != serial, "the new one")
                load.wait_for(20)
            assert load.refused == 0
            assert set(load.replies) == {250}
            _all_delivered(sink, load)
            # The session lives, its transaction is still open, and the new policy holds in it.
            assert client.command(f"RCPT TO:<{X}>").code == 250
            assert client.command("RCPT TO:<y@example.org>").code == 452
            client.command("RSET")
            again = deliver_over(client, "a@b.test", [X], message)
            assert again.final is not None
            assert again.final.wire == DUPLICATE


def test_a_reload_is_told_when_the_workers_have_it(sink: Sink) -> None:
    """Whoever reloads, waits for the word, and sends, is served as the new configuration says."""
    with running_gateway({**settings_for(sink.port), "workers": 2}) as gateway:
        message = letter(fresh_id())
        assert deliver(gateway.port, "a@b.test", [X], message).is_accepted
        paused = gateway.worker_pids[0]
        os.kill(paused, signal.SIGSTOP)
        # The second of them is told by the supervisor alone, and before the workers are.
        gateway.write_config({"dedup.action": "drop", "journal.entries": 1000})
        os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for_log("restart_needed")
        assert '"reloaded"' not in gateway.log()
        os.kill(paused, signal.SIGCONT)
        gateway.wait_for_log('"reloaded"')
        again = deliver(gateway.port, "a@b.test", [X], message)
        assert again.final is not None
        assert again.final.wire == DUPLICATE


def test_a_reload_that_comes_with_the_end_is_none(sink: Sink) -> None:
    """One under way, one that waits for that, and one that comes when nobody listens any more."""
    with running_gateway({**settings_for(sink.port), "workers": 2}) as gateway:
        paused = gateway.worker_pids[0]
        os.kill(paused, signal.SIGSTOP)
        gateway.write_config({"journal.entries": 1000})
        for _ in range(2):
            os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for_log("restart_needed")
        os.kill(gateway.pid, signal.SIGTERM)
        gateway.wait_for_log('"stopping"')
        os.kill(gateway.pid, signal.SIGHUP)
        os.kill(paused, signal.SIGCONT)
        assert gateway.stop() == 0


def test_the_console_finds_what_is_tracked_since_a_reload(sink: Sink) -> None:
    """P7: a new secret makes new digests; under the old ones nothing is found, nor forgotten."""
    with running_gateway(settings_for(sink.port)) as gateway:
        gateway.reload({"store.secret": "another secret", "hostname": "renamed.test"})
        message_id = fresh_id()
        assert deliver(gateway.port, "a@b.test", [X], letter(message_id)).is_accepted
        asked = f"/api/messages?message_id={quote(message_id)}"
        # The client is told before the list.
        wait_until(lambda: '"state": "seen"' in gateway.http(asked)[1], "the message is found")
        assert "renamed.test" in gateway.http("/")[1]


def test_a_reload_that_cannot_be_used_changes_nothing(sink: Sink) -> None:
    with running_gateway(settings_for(sink.port)) as gateway:
        good = gateway.config_file.read_text()
        gateway.config_file.write_text(good + '\n[dedup]\naction = "dorp"\n')
        os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for_log("configuration_unusable")
        assert deliver(gateway.port, "a@b.test", [X], letter(fresh_id())).is_accepted
        gateway.config_file.write_text(good)


def test_a_stop_lets_what_is_under_way_finish(sink: Sink) -> None:
    """Idle sessions are told, messages in flight are seen through and remembered, exit 0."""
    settings = {**settings_for(sink.port), "workers": 2, "dedup.action": "drop"}
    with running_gateway(settings) as gateway:
        message = letter(fresh_id())
        gate = threading.Event()
        sink.answer("content", Said(b"250 2.0.0 Ok: at last\r\n", gate=gate))
        with Client(gateway.port) as idle, Client(gateway.port) as greeted:
            greeted.greet()
            idle.answer()
            replies: list[bytes] = []

            def send() -> None:
                delivery = deliver(gateway.port, "a@b.test", [X], message, limit_s=30.0)
                replies.append(delivery.final.wire if delivery.final else b"")

            sender = threading.Thread(target=send)
            sender.start()
            sink.wait_for_command("DATA")
            sink.wait_for_command(".")
            status: list[int] = []
            stopper = threading.Thread(target=lambda: status.append(gateway.stop()))
            stopper.start()
            for client in (idle, greeted):
                assert client.answer().wire == STOPPING
                assert client.is_closed()
            wait_until(lambda: not _takes(gateway.port), "nobody is let in")
            gate.set()
            sender.join(60)
            stopper.join(60)
        assert replies == [b"250 2.0.0 Ok: at last\r\n"]
        assert status == [0]
        gateway.start()
        again = deliver(gateway.port, "a@b.test", [X], message)
        assert again.final is not None
        assert again.final.wire == DUPLICATE, "it was confirmed before the end"
        assert sink.deliveries() == [(X, message)]


def _takes(port: int) -> bool:
    with contextlib.suppress(OSError, ClosedError), Client(port, limit_s=2.0) as client:
        return client.answer().code == 220
    return False


def test_workers_end_with_their_supervisor_and_another_takes_over(sink: Sink) -> None:
    settings = {**settings_for(sink.port), "workers": 2}
    with running_gateway(settings) as gateway:
        workers = gateway.worker_pids
        with Client(gateway.port) as client:
            client.greet()
            begun = time.monotonic()
            os.kill(gateway.pid, signal.SIGKILL)
            gateway._child = None  # its group lives on: this is what is under test
            assert client.answer().wire == STOPPING
            gateway.start()
            assert deliver(gateway.port, "a@b.test", [X], letter(fresh_id())).is_accepted
            assert time.monotonic() - begun < 60
        wait_until(lambda: not any(map(_is_alive, workers)), "the old workers end")


def test_over_a_unix_socket_another_takes_over_as_well(sink: Sink) -> None:
    """The path is the new one's; the old workers' end must not take it away."""
    with temporary_folder("unix") as folder:
        path = str(folder / "smtp")
        settings = {**settings_for(sink.port), "listen.smtp": [f"unix:{path}"]}
        with running_gateway(settings) as gateway:
            workers = gateway.worker_pids
            os.kill(gateway.pid, signal.SIGKILL)
            gateway._child = None
            gateway.start()
            wait_until(lambda: not any(map(_is_alive, workers)), "the old workers end")
            with socket.socket(socket.AF_UNIX) as raw:
                raw.settimeout(30)
                raw.connect(path)
                assert raw.recv(100).startswith(b"220 ")
