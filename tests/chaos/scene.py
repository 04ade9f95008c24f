"""One gateway between a client and a sink, with a tracking list that can be made to hang.

What a test stops, it stops at a moment that a gate of the sink makes certain; nothing in the
gateway knows of tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.client import Client, Delivery, deliver, deliver_over
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.recording import Answer
from tests.support.redis import redis_server
from tests.support.sink import Sink
from tests.support.tcp_proxy import TcpProxy

SENDER = "a@sender.test"
RECIPIENT = "x@example.org"
LISTS = ("redis", "sqlite")

Hold = Callable[[], contextlib.AbstractContextManager[None]]


@dataclass(slots=True)
class Scene:
    """Everything on the stage.

    Attributes:
        gateway: it runs.
        sink: where mail ends.
        hold: makes the list hang for as long as the context lasts.
        threads: for clients that wait.
    """

    gateway: Gateway
    sink: Sink
    hold: Hold
    threads: ThreadPoolExecutor

    def send(self, message: bytes, *recipients: str, limit_s: float = 20.0) -> Delivery:
        """Send a message as a client does once; a gateway that is not there loses it."""
        try:
            return deliver(
                self.gateway.port, SENDER, recipients or (RECIPIENT,), message, limit_s=limit_s
            )
        except OSError:
            return Delivery(was_lost=True)

    def sending(self, message: bytes) -> Future[Delivery]:
        """Send a message meanwhile, without a QUIT: that would wait for the list, too."""
        return self.threads.submit(self._sent, message)

    def gated(self, verb: str, reply: bytes = b"250 2.0.0 Ok\r\n") -> threading.Event:
        """Have the sink hold back its next answer to a command until the gate is opened."""
        gate = threading.Event()
        self.sink.answer(verb, Answer(reply, gate=gate))
        return gate

    def _sent(self, message: bytes) -> Delivery:
        with Client(self.gateway.port, limit_s=60.0) as client:
            client.greet()
            return deliver_over(client, SENDER, (RECIPIENT,), message)

    def copies_of(self, message: bytes) -> list[bytes]:
        """Return what the sink has accepted of a message, marks on top included."""
        return [copy for _, copy in self.sink.deliveries() if copy.endswith(message)]


@contextlib.contextmanager
def scene(kind: str, settings: dict[str, Any]) -> Iterator[Scene]:
    """Set the stage.

    Args:
        kind: of the list, one of `LISTS`.
        settings: of the gateway.
    """
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(Sink())
        chosen = {"dedup.action": "drop", **settings_for(sink.port), **settings}
        proxy: TcpProxy | None = None
        if kind == "redis":
            server = stack.enter_context(redis_server())
            proxy = stack.enter_context(_proxy(server.port))
            chosen["store.url"] = f"redis://127.0.0.1:{proxy.port}"
        gateway = stack.enter_context(running_gateway(chosen))
        hold = (lambda: _silent(proxy)) if proxy else (lambda: _locked(gateway.folder / "seen.db"))
        threads = stack.enter_context(ThreadPoolExecutor())
        yield Scene(gateway, sink, hold, threads)


def worker_of(gateway: Gateway, client: Client) -> int:
    """Return the process id of the worker that serves a client's connection."""
    wanted = f":{gateway.port:04X}", f":{client._socket.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if (words[1][-5:], words[2][-5:]) == wanted:
            for pid in gateway.worker_pids:
                if words[9] in _socket_inodes(pid):
                    return pid
    raise AssertionError("no worker has accepted this connection")


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink())):
                found.add(match[1])
    return found


@contextlib.contextmanager
def _proxy(port: int) -> Iterator[TcpProxy]:
    """Run a proxy in a thread."""
    proxy = TcpProxy(port)
    loop = asyncio.new_event_loop()
    is_ready, is_over = threading.Event(), asyncio.Event()

    async def run() -> None:
        async with proxy:
            is_ready.set()
            await is_over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert is_ready.wait(10), "the proxy does not start"
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join(10)
        loop.close()


@contextlib.contextmanager
def _silent(proxy: TcpProxy) -> Iterator[None]:
    """Have Redis hear nothing any more."""
    proxy.swallows_requests = True
    try:
        yield
    finally:
        proxy.swallows_requests = False


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of the file, as a backup that takes too long does."""
    with contextlib.closing(sqlite3.connect(file, timeout=10.0, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            database.execute("ROLLBACK")
