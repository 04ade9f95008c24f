"""The way to a Redis server: URLs, connections, and one exchange of commands for replies.

The only module that knows redis-py. What the commands mean may not live here. Nothing is opened
before the first exchange; one connection is enough, since exchanges never overlap.

Fails with `TrackingListError` when no reply can be trusted: server gone, stalled, connection cut.
The connection is dropped then, so that a late reply can never be taken for another command's. The
error of a single command is a value among the replies.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import (
    AbstractConnection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import (
    ConnectionError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
)

from gateway.errors import ConfigError, TrackingListError

Command = tuple[str | bytes | int, ...]

_FAILURES = (RedisError, RedisClusterException, OSError)
_SENTINEL_PORT = 26379
_REDIS_PORT = 6379
# Finding the master of a failing-over Sentinel or Cluster group takes several connections.
_CONNECT_BUDGET_S = 5.0


class RedisLink(Protocol):
    """Carries commands to Redis; one exchange at a time."""

    async def exchange(
        self, commands: Sequence[Command], greeting: Sequence[Command]
    ) -> list[object]:
        """Send commands in one round trip and return their replies in order.

        Args:
            commands: any number; a command that Redis refuses does not stop the others.
            greeting: goes first if the connection is a new one; its replies are not returned.

        Returns:
            One reply per command; an exception instance for a refused one.

        Raises:
            TrackingListError: nothing is known about any of the commands.
        """

    async def close(self) -> None:
        """Close all connections; never raises."""


def open_link(url: str, timeout_s: float) -> RedisLink:
    """Return the link for a URL; opens nothing yet.

    Args:
        url: ``redis://``, ``rediss://`` and ``unix://`` as redis-py knows them;
            ``redis+sentinel://[user:password@]host[:port],host[:port]/name[/db]`` and
            ``redis+cluster://[user:password@]host[:port],…``, with ``rediss+`` for TLS. The
            parameters of redis-py may follow as a query; ``sentinel_username`` and
            ``sentinel_password`` are for the Sentinels themselves.
        timeout_s: for each connect and each exchange.

    Raises:
        ConfigError: the URL cannot be understood.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in ("redis", "rediss", "unix"):
            return PooledLink(ConnectionPool.from_url(url, **_options(timeout_s)), timeout_s)
        if parts.scheme in ("redis+sentinel", "rediss+sentinel"):
            return _sentinel_link(parts, timeout_s)
        if parts.scheme in ("redis+cluster", "rediss+cluster"):
            return _cluster_link(parts, timeout_s)
    except (ValueError, TypeError, RedisError, RedisClusterException) as error:
        raise ConfigError((f"store.url: {error}",)) from error
    raise ConfigError((f"store.url: unknown scheme {parts.scheme!r}",))


class PooledLink:
    """Link to one server: a fixed one, or the master that the Sentinels name."""

    def __init__(
        self, pool: ConnectionPool, timeout_s: float, sentinel: Sentinel | None = None
    ) -> None:
        """Take the pool that makes the connection.

        Args:
            pool: of redis-py, without connections so far.
            timeout_s: for each exchange.
            sentinel: that belongs to the pool; closed with it.
        """
        self._pool = pool
        self._timeout_s = timeout_s
        self._sentinel = sentinel
        self._is_new = True
        pool.connection_kwargs["redis_connect_func"] = self._on_connect

    async def exchange(
        self, commands: Sequence[Command], greeting: Sequence[Command]
    ) -> list[object]:
        """See `RedisLink.exchange`."""
        try:
            connection = await self._pool.get_connection()
            try:
                return await self._exchange(connection, commands, greeting)
            finally:
                await self._pool.release(connection)
        except _FAILURES as error:
            raise TrackingListError(f"redis: {error or 'no answer in time'}") from error

    async def _exchange(
        self,
        connection: AbstractConnection,
        commands: Sequence[Command],
        greeting: Sequence[Command],
    ) -> list[object]:
        first = len(greeting) if self._is_new else 0
        sent = (*greeting, *commands) if first else commands
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.send_packed_command(connection.pack_commands(sent))
                replies = [await _reply(connection) for _ in sent]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._is_new = False
        if any(isinstance(reply, ReadOnlyError) for reply in replies):
            # The server has become a replica: the name may lead to the new master by now.
            await connection.disconnect(nowait=True)
        return replies[first:]

    async def close(self) -> None:
        """See `RedisLink.close`."""
        for part in (self._pool, self._sentinel):
            try:
                if part is not None:
                    await part.aclose()
            except _FAILURES:
                continue

    async def _on_connect(self, connection: AbstractConnection) -> None:
        self._is_new = True
        await connection.on_connect()


class ClusterLink:
    """Link to a Redis Cluster; commands go to the nodes that own their keys, all at once.

    Connections to the nodes come and go inside redis-py, so the greeting goes along only after
    the link was made or failed.
    """

    def __init__(self, client: RedisCluster, timeout_s: float) -> None:
        """Take a client that has not been used.

        Args:
            client: of redis-py.
            timeout_s: for each exchange.
        """
        self._client = client
        self._timeout_s = timeout_s
        self._is_new = True

    async def exchange(
        self, commands: Sequence[Command], greeting: Sequence[Command]
    ) -> list[object]:
        """See `RedisLink.exchange`."""
        try:
            async with asyncio.timeout(_CONNECT_BUDGET_S):
                await self._client.initialize()
            if self._is_new:
                # In a round trip of its own: nodes answer in any order.
                await self._run(greeting)
            replies = await self._run(commands)
        except _FAILURES as error:
            await self._forget_nodes()
            raise TrackingListError(f"redis cluster: {error or 'no answer in time'}") from error
        self._is_new = False
        if any(isinstance(reply, ConnectionError | TimeoutError) for reply in replies):
            await self._forget_nodes()
        return replies

    async def _run(self, commands: Sequence[Command]) -> list[object]:
        pipeline = self._client.pipeline()
        for command in commands:
            # Without this option redis-py makes a truth value of what SET … GET answers.
            pipeline.execute_command(*command, get="GET" in command)
        async with asyncio.timeout(self._timeout_s):
            return await pipeline.execute(raise_on_error=False)

    async def close(self) -> None:
        """See `RedisLink.close`."""
        await self._forget_nodes()

    async def _forget_nodes(self) -> None:
        """Have the next exchange ask anew who owns what: after a failover nobody tells us."""
        self._is_new = True
        try:
            await self._client.aclose()
        except _FAILURES:
            return


async def _reply(connection: AbstractConnection) -> object:
    try:
        # The exchange has one time-out for all; one per reply would double the cost.
        return await connection.read_response(timeout=math.inf)
    except ResponseError as error:
        return error


def _options(timeout_s: float) -> dict[str, Any]:
    return {
        # A command repeated behind our back could make a message a duplicate of itself.
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        # RESP3 would add push messages between the replies; nothing here needs it.
        "protocol": 2,
        "driver_info": None,
    }


def _sentinel_link(parts: SplitResult, timeout_s: float) -> PooledLink:
    hosts, options = _group(parts, _SENTINEL_PORT, timeout_s)
    name, _, database = unquote(parts.path).strip("/").partition("/")
    if not name:
        raise ValueError("the name of the Sentinel group is missing: redis+sentinel://host/name")
    options["db"] = int(database or options.get("db", 0))
    own = {
        key: value
        for key, value in options.items()
        if key.startswith(("ssl", "socket_", "retry", "protocol", "driver_info"))
    }
    for key in ("username", "password"):
        own[key] = options.pop(f"sentinel_{key}", None)
    sentinel = Sentinel(hosts, sentinel_kwargs=own, **options)
    return PooledLink(SentinelConnectionPool(name, sentinel, **options), timeout_s, sentinel)


def _cluster_link(parts: SplitResult, timeout_s: float) -> ClusterLink:
    hosts, options = _group(parts, _REDIS_PORT, timeout_s)
    nodes = [ClusterNode(host, port) for host, port in hosts]
    return ClusterLink(RedisCluster(startup_nodes=nodes, **options), timeout_s)


def _group(
    parts: SplitResult, default_port: int, timeout_s: float
) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Return the hosts of a URL that names several, and the options for their connections."""
    user_info, _, hosts = parts.netloc.rpartition("@")
    # redis-py reads credentials and parameters, with their types, from a URL of one host.
    single = f"redis://{user_info}@localhost/?{parts.query}" if user_info else f"redis://?{parts.query}"
    options = {**_options(timeout_s), **parse_url(single)}
    options.pop("host", None)
    if parts.scheme.startswith("rediss"):
        options["ssl"] = True
    return [_host(host, default_port) for host in hosts.split(",")], options


def _host(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"a host is missing in {text!r}")
    return parts.hostname, parts.port or default_port


__all__ = [
    "ClusterLink",
    "Command",
    "PooledLink",
    "RedisLink",
    "SSLConnection",
    "UnixDomainSocketConnection",
    "open_link",
]
