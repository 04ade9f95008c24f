"""The stage of a run: the gateway, its list in Redis, the mail server behind it, and its clients.

There are two ways for the list to be there: one server behind a proxy that sees and loses what is
said to it, or a master with a replica behind three Sentinels, each behind such a proxy, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import redis

from tests.chaos.downstream import House
from tests.chaos.ledger import Effect, Ledger, now
from tests.chaos.post import Office
from tests.chaos.senders import Senders
from tests.chaos.wire import RedisProxy
from tests.support.gateway import Gateway
from tests.support.process import Child, free_port, start, temporary_folder, wait_until
from tests.support.redis import RedisServer, redis_server

T = TypeVar("T")

SESSIONS = 24
LEASE_S = 15.0
GROUP = "mail"
_SENTINELS = 3

SETTINGS: dict[str, Any] = {
    "workers": 2,
    "dedup.action": "drop",
    "dedup.in_flight_wait": "1s",
    "store.window": "1h",
    "store.timeout": "250ms",  # as it is by default: here a list that hangs is what matters
    "store.lease": f"{LEASE_S:g}s",
    "downstream.connect_timeout": "2s",
    "downstream.command_timeout": "3s",
    "downstream.final_reply_timeout": "3s",
    "limits.idle_timeout": "5s",
    # Its entries name queue ids as well, and the proxy must see those of records alone.
    "journal.keep": "off",
    "log.level": "warning",
}


@dataclass(slots=True)
class Group:
    """Servers with the same data, each behind its proxy.

    Attributes:
        url: for the gateway.
        servers: one; or master and replica, as they began.
        proxies: before each.
        sentinels: ports, none for a single server.
    """

    url: str
    servers: list[RedisServer]
    proxies: list[RedisProxy]
    sentinels: list[int] = field(default_factory=list)

    def master(self) -> int:
        """Return the index of the master as a Sentinel has it."""
        if not self.sentinels:
            return 0
        for port in self.sentinels:
            with (
                contextlib.suppress(redis.RedisError),
                redis.Redis("127.0.0.1", port, socket_timeout=1.0, protocol=2) as client,
            ):
                _, master = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", GROUP)
                return [proxy.port for proxy in self.proxies].index(int(master))
        raise AssertionError("no Sentinel answers")

    @property
    def is_steady(self) -> bool:
        """Say whether the replica follows the master, so that a failover can be made."""
        if not self.sentinels:
            return True
        with contextlib.suppress(redis.RedisError, OSError):
            master = self.master()
            with self.servers[1 - master].client() as client:
                found = client.info("replication")
            return bool(found.get("role") == "slave" and found.get("master_link_status") == "up")
        return False


@dataclass(slots=True)
class Stage:
    """Everything that takes part.

    Attributes:
        ledger: all recordings.
        gateway: `mailonce serve` with two workers.
        house: the mail server.
        senders: the clients.
        group: the list that is in use.
        groups: all there are.
        gateway_lock: held by whoever does something to the gateway.
        list_lock: held by whoever does something to the list.
    """

    ledger: Ledger
    gateway: Gateway
    house: House
    senders: Senders
    group: Group
    groups: list[Group]
    gateway_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    list_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def stop_gateway(self) -> None:
        """Stop it as systemd does; what it cannot finish in time counts as killed."""
        began_s = now()
        if await blocking(self.gateway.stop) != 0:
            self.ledger.note(Effect.DIED, began_s, now())

    async def start_gateway(self) -> None:
        """Start it, and wait for all of its workers, wherever list and downstream may be."""

        def start() -> None:
            self.gateway.start(until="alive")
            wait_until(
                lambda: self.gateway.metric("mailonce_workers") == SETTINGS["workers"],
                "the workers",
                40.0,
                self.gateway._child,
            )

        await blocking(start)

    async def move_list(self, group: Group) -> None:
        """Go on with another list, which knows nothing of what has been."""
        async with self.gateway_lock, self.list_lock:
            if group is self.group:
                return
            await self.stop_gateway()
            for server in group.servers:
                server.ask("FLUSHALL") if server is group.servers[group.master()] else None
            self.ledger.note(Effect.LIST_LOST, -math.inf, now())
            self.group = group
            self.gateway.settings["store.url"] = group.url
            await self.start_gateway()


async def blocking(work: Callable[[], T]) -> T:
    """Do in a thread what waits for processes."""
    return await asyncio.to_thread(work)


@contextlib.asynccontextmanager
async def staged(
    office: Office, ledger: Ledger, seed: int, *, settings: dict[str, Any], has_sentinels: bool
) -> AsyncIterator[Stage]:
    """Set the stage, and clear it away.

    Args:
        office: writes the messages.
        ledger: for all recordings.
        seed: of the clients.
        settings: of the gateway, beyond `SETTINGS`.
        has_sentinels: whether the second group is there.
    """
    async with contextlib.AsyncExitStack() as stack:
        groups = [await _single(stack, ledger)]
        if has_sentinels:
            groups.append(await _replicated(stack, ledger))
        folder = stack.enter_context(temporary_folder("chaos"))
        port = free_port()
        chosen = {
            **SETTINGS,
            "downstream.servers": [f"smtp://127.0.0.1:{port}"],
            "store.url": groups[0].url,
            **settings,
        }
        gateway = Gateway(folder, chosen, {})
        senders = Senders(office, ledger, gateway.port, seed)
        house = House(ledger, senders.attempts)
        await house.open(port)
        stage = Stage(ledger, gateway, house, senders, groups[0], groups)
        stack.callback(gateway.kill)
        stack.push_async_callback(house.end)
        await stage.start_gateway()
        clients = [asyncio.create_task(senders.session()) for _ in range(SESSIONS)]
        try:
            yield stage
        except BaseException as error:
            error.add_note(f"the gateway's log ends with:\n{gateway.log()[-3000:]}")
            raise
        finally:
            for client in clients:
                client.cancel()
            results = await asyncio.gather(*clients, return_exceptions=True)
        bugs = [r for r in results if not isinstance(r, asyncio.CancelledError)]
        assert not bugs, bugs


async def _single(stack: contextlib.AsyncExitStack, ledger: Ledger) -> Group:
    """Run one server that loses nothing when it is killed."""
    server = await blocking(
        lambda: stack.enter_context(redis_server("--appendonly", "yes", "--appendfsync", "always"))
    )
    proxy = RedisProxy(ledger, server.port)
    await proxy.open(free_port())
    stack.push_async_callback(proxy.close)
    return Group(f"redis://127.0.0.1:{proxy.port}", [server], [proxy])


async def _replicated(stack: contextlib.AsyncExitStack, ledger: Ledger) -> Group:
    """Run a master, a replica and Sentinels; all of them meet through proxies."""
    ports = [free_port(), free_port()]
    quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
    servers, proxies = [], []
    for index, port in enumerate(ports):
        own = ("--replica-announce-ip", "127.0.0.1", "--replica-announce-port", str(port))
        role = ("--replicaof", f"127.0.0.1 {ports[0]}") if index else ()
        options = (*quick, *own, *role)
        server = await blocking(partial(stack.enter_context, redis_server(*options)))
        proxy = RedisProxy(ledger, server.port)
        await proxy.open(port)
        stack.push_async_callback(proxy.close)
        servers.append(server)
        proxies.append(proxy)
    folder = stack.enter_context(temporary_folder("sentinels"))
    sentinels = [free_port() for _ in range(_SENTINELS)]
    for port in sentinels:
        child = _start_sentinel(folder, port, ports[0])
        stack.callback(child.kill)
    hosts = ",".join(f"127.0.0.1:{port}" for port in sentinels)
    group = Group(f"redis+sentinel://{hosts}/{GROUP}/0", servers, proxies, sentinels)
    await blocking(lambda: wait_until(lambda: _all_see(group), "the Sentinels", 30.0))
    return group


def _start_sentinel(folder: Path, port: int, master_port: int) -> Child:
    configuration = folder / f"{port}.conf"
    configuration.write_text(
        f"port {port}\n"
        "bind 127.0.0.1\n"
        f"dir {folder}\n"
        f"sentinel monitor {GROUP} 127.0.0.1 {master_port} {_SENTINELS // 2 + 1}\n"
        f"sentinel down-after-milliseconds {GROUP} 1000\n"
        f"sentinel failover-timeout {GROUP} 2000\n"
    )
    return start(("redis-server", str(configuration), "--sentinel"), folder / f"{port}.log")


def _all_see(group: Group) -> bool:
    """Say whether each Sentinel knows the others and the replica."""
    for port in group.sentinels:
        try:
            with redis.Redis("127.0.0.1", port, protocol=2) as client:
                master = client.info("sentinel").get("master0", {})
        except redis.RedisError:
            return False
        is_whole = isinstance(master, dict) and master.get("sentinels") == _SENTINELS
        if not (is_whole and master.get("slaves") == 1):
            return False
    return group.is_steady


def empty(server: RedisServer) -> None:
    """Take away what a killed server has on its disk."""
    shutil.rmtree(server.folder / "appendonlydir", ignore_errors=True)
