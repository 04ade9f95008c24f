"""Real Redis servers of our own: one, behind Sentinels, or a cluster; data in a temporary folder.

Each listens on a free loopback port and keeps nothing on disk unless asked. `redis-py` plays the
independent client; the gateway has one of its own.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis

from tests.support.need import need
from tests.support.process import Child, free_port, start, temporary_folder, wait_until

_SLOTS = 16384


@dataclass(slots=True)
class RedisServer:
    """A server that can be stopped, paused, and started again on its port.

    Attributes:
        port: on loopback.
        folder: its own.
        options: of its command line.
        child: the process.
        access: of the independent client: password, TLS.
    """

    port: int
    folder: Path
    options: tuple[str, ...]
    child: Child
    access: dict[str, Any]

    @property
    def url(self) -> str:
        """Return the URL for the gateway."""
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> redis.Redis:
        """Return an independent client; close it."""
        return redis.Redis("127.0.0.1", self.port, socket_timeout=5.0, protocol=2, **self.access)

    def ask(self, *command: str | bytes | int) -> Any:  # noqa: ANN401 – whatever Redis answers
        """Run one command as its own client."""
        with self.client() as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        """End it at once."""
        self.child.kill()

    def pause(self) -> None:
        """Stop it without closing any connection."""
        self.child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.child.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start it again after `kill`."""
        self.child = _start(self.port, self.folder, self.options, self.access)


@contextlib.contextmanager
def redis_server(*options: str, access: dict[str, Any] | None = None) -> Iterator[RedisServer]:
    """Run a server.

    Args:
        options: more of its command line.
        access: for the independent client, if that needs any.
    """
    need("redis-server")
    with temporary_folder("redis") as folder:
        port = free_port()
        own = access or {}
        server = RedisServer(port, folder, options, _start(port, folder, options, own), own)
        try:
            yield server
        finally:
            server.child.kill()


@contextlib.contextmanager
def redis_cluster(masters: int = 3) -> Iterator[list[RedisServer]]:
    """Run a cluster of masters without replicas."""
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(
                redis_server(
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    str(free_port()),
                    "--cluster-node-timeout",
                    "15000",  # a busy machine's nodes are late, and not gone
                )
            )
            for _ in range(masters)
        ]
        for number, node in enumerate(nodes):
            first, end = number * _SLOTS // masters, (number + 1) * _SLOTS // masters
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        bus_port = {node.port: node.options[3] for node in nodes}
        for node in nodes[1:]:
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus_port[node.port])
        for node in nodes:
            wait_until(partial(_is_whole, node, masters), "the cluster", 30.0, node.child)
        yield nodes


@dataclass(slots=True)
class Sentinels:
    """A master, its replica, and the Sentinels that watch them.

    Attributes:
        name: of the group.
        ports: of the Sentinels.
        master: at the start.
        replica: at the start.
    """

    name: str
    ports: tuple[int, ...]
    master: RedisServer
    replica: RedisServer

    @property
    def url(self) -> str:
        """Return the URL for the gateway."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://{hosts}/{self.name}/0"

    def fail_over(self) -> None:
        """Have the Sentinels make the replica the master, as if the master were gone."""
        with redis.Redis("127.0.0.1", self.ports[0], protocol=2) as client:
            client.execute_command("SENTINEL", "FAILOVER", self.name)

    def master_port(self) -> int:
        """Return the port of the master as the first Sentinel has it."""
        with redis.Redis("127.0.0.1", self.ports[0], protocol=2) as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
            return int(port)


@contextlib.contextmanager
def redis_sentinels(count: int = 3) -> Iterator[Sentinels]:
    """Run a master with a replica, watched by Sentinels that fail over within seconds."""
    need("redis-server")
    with contextlib.ExitStack() as stack:
        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        master = stack.enter_context(redis_server(*quick))
        replica = stack.enter_context(
            redis_server(*quick, "--replicaof", f"127.0.0.1 {master.port}")
        )
        wait_until(lambda: _is_linked(replica), "the replica", 30.0, replica.child)
        folder = stack.enter_context(temporary_folder("sentinel"))
        ports = tuple(free_port() for _ in range(count))
        for port in ports:
            child = _start_sentinel(folder, port, master.port, count // 2 + 1)
            stack.callback(child.kill)
        for port in ports:
            wait_until(partial(_sees_all, port, count), "the Sentinels", 40.0)
        yield Sentinels("mail", ports, master, replica)


def _start(port: int, folder: Path, options: Sequence[str], access: dict[str, Any]) -> Child:
    child = start(
        (
            "redis-server",
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
            "--save",
            "",
            "--appendonly",
            "no",
            "--enable-debug-command",
            "local",
            "--unixsocket",
            str(folder / "redis.sock"),
            *options,
        ),
        folder / "log",
    )

    def answers() -> bool:
        with (
            contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError),
            redis.Redis("127.0.0.1", port, protocol=2, **access) as client,
        ):
            return bool(client.ping())
        return False

    wait_until(answers, "Redis", 30.0, child)
    return child


def _start_sentinel(folder: Path, port: int, master_port: int, quorum: int) -> Child:
    configuration = folder / f"{port}.conf"
    configuration.write_text(
        f"port {port}\n"
        "bind 127.0.0.1\n"
        f"dir {folder}\n"
        f"sentinel monitor mail 127.0.0.1 {master_port} {quorum}\n"
        # Not less: a busy machine's master is late, and not gone.
        "sentinel down-after-milliseconds mail 2500\n"
        "sentinel failover-timeout mail 1000\n"
    )
    return start(("redis-server", str(configuration), "--sentinel"), folder / f"{port}.log")


def _is_whole(node: RedisServer, masters: int) -> bool:
    is_ok = b"cluster_state:ok" in node.ask("CLUSTER", "INFO")
    return is_ok and len(node.ask("CLUSTER", "SLOTS")) == masters


def _is_linked(replica: RedisServer) -> bool:
    with replica.client() as client:
        return bool(client.info("replication").get("master_link_status") == "up")


def _sees_all(port: int, count: int) -> bool:
    with (
        contextlib.suppress(redis.ConnectionError),
        redis.Redis("127.0.0.1", port, protocol=2) as client,
    ):
        info = client.info("sentinel")
        master = info.get("master0", {})
        return (
            isinstance(master, dict)
            and master.get("sentinels") == count
            and master.get("slaves") == 1
        )
    return False
