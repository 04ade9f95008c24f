"""The way to Redis: one server, the master that Sentinels name, or a cluster.

What URLs mean is `redis_url`'s business, what the commands mean `tracking_redis`'. Nothing is
opened before the first commands. Fails with `TrackingListError` as `redis_batch` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from gateway.edge.redis_batch import Batcher, Greeting
from gateway.edge.redis_cluster import ClusterLink
from gateway.edge.redis_url import Kind, parse
from gateway.edge.redis_wire import Command, RefusedError, Server, Wire, ask, dial
from gateway.errors import TrackingListError

# A Sentinel that does not answer must not use up the time for asking the others.
_SENTINEL_S = 1.0


class RedisLink(Protocol):
    """Carries commands to Redis.

    Attributes:
        greeting: returns what must come before anything else on a new connection.
    """

    greeting: Greeting

    def run(self, commands: Sequence[Command]) -> Awaitable[list[object]]:
        """Send commands, and wait for their replies.

        Args:
            commands: at least one, in an order that counts only among those for one server; a
                command that Redis refuses does not stop the others.

        Returns:
            One reply per command; a `hiredis.ReplyError` for a refused one.

        Raises:
            TrackingListError: nothing is known about any of the commands.
        """

    async def close(self) -> None:
        """Finish what was asked, close all connections; never raises."""


def open_link(url: str, timeout_s: float) -> RedisLink:
    """Return the link for a URL; opens nothing yet.

    Args:
        url: see `redis_url`.
        timeout_s: how long a call waits at most.

    Raises:
        ConfigError: the URL cannot be understood.
    """
    target = parse(url)
    match target.kind:
        case Kind.CLUSTER:
            return ClusterLink(target.servers, dial, timeout_s)
        case Kind.SENTINEL:
            masters = SentinelDial(target.servers, target.member, target.group)
            return Batcher(target.group, masters.dial, timeout_s)
        case Kind.SINGLE:
            return Batcher(str(target.member), partial(dial, target.member), timeout_s)


class SentinelDial:
    """Connects to whichever server the Sentinels call master."""

    def __init__(self, sentinels: Sequence[Server], member: Server, group: str) -> None:
        """Ask nobody yet.

        Args:
            sentinels: asked in order, the one that answered last first.
            member: how to be let in by the master.
            group: what the Sentinels call it.
        """
        self._sentinels = list(sentinels)
        self._member = member
        self._group = group.encode()

    async def dial(self) -> Wire:
        """Connect to the master.

        Raises:
            TrackingListError: no Sentinel answers, or what they name is no master, or not there.
        """
        reasons = []
        for sentinel in tuple(self._sentinels):
            # Whoever does not answer goes to the end, even if our own time ends first.
            self._sentinels.append(self._sentinels.pop(0))
            try:
                async with asyncio.timeout(_SENTINEL_S):
                    wire = await self._master(sentinel)
            except (OSError, RefusedError) as error:
                reasons.append(f"{sentinel}: {str(error) or 'no answer in time'}")
                continue
            self._sentinels.insert(0, self._sentinels.pop())
            return wire
        raise TrackingListError("redis sentinel: " + "; ".join(reasons))

    async def _master(self, sentinel: Server) -> Wire:
        asked = await dial(sentinel)
        try:
            (answer,) = await ask(asked, [(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._group)])
        finally:
            asked.drop()
        match answer:
            case [bytes(host), bytes(port)]:
                wire = await dial(replace(self._member, host=host.decode("ascii"), port=int(port)))
            case _:
                raise RefusedError(f"knows no master {self._group.decode()!r}")
        try:
            await _check_role(wire)
        except BaseException:
            wire.drop()
            raise
        return wire


async def _check_role(wire: Wire) -> None:
    """Ask a server whether it is a master.

    In a failover Sentinels name the old master for a while; it may be a replica already.

    Raises:
        OSError: the connection ended.
        RefusedError: it is none.
    """
    (role,) = await ask(wire, [(b"ROLE",)])
    if not (isinstance(role, list) and role[:1] == [b"master"]):
        raise RefusedError("names a server that is no master")
