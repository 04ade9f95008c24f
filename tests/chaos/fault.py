"""The catalogue of faults: what each does, and to what effect. Each is over when it returns.

What comes of a fault is not said here; only its effect is noted, with its times, for the judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import redis

from tests.chaos.downstream import Trouble
from tests.chaos.ledger import Effect, now
from tests.chaos.senders import VANISHINGS
from tests.chaos.stage import GROUP, Stage, blocking, empty
from tests.support.process import wait_until
from tests.support.redis import RedisServer

Inject = Callable[[Stage, random.Random], Awaitable[None]]

_LATER = b"451 4.3.2 Later\r\n"
_NEVER = b"554 5.7.1 Never\r\n"
_CLOSING = b"421 4.3.2 Closing\r\n"
_LOOK_S = 0.3


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        name: for the table.
        weight: how often it is chosen.
        inject: does it, and puts it right.
        needs: ``""``, or the list it is for: ``single``, ``sentinel``.
    """

    name: str
    weight: int
    inject: Inject
    needs: str = ""


# --- The gateway ---


async def kill_worker(stage: Stage, draw: random.Random) -> None:
    """Kill a worker; the supervisor starts another."""
    async with stage.gateway_lock:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, IndexError):
            pid = draw.choice(stage.gateway.worker_pids)
            stage.ledger.note(Effect.DIED, now(), now())
            os.kill(pid, signal.SIGKILL)


async def kill_all(stage: Stage, draw: random.Random) -> None:
    """Kill every process of the gateway, and start it again."""
    async with stage.gateway_lock:
        began_s = now()
        await blocking(stage.gateway.kill)
        stage.ledger.note(Effect.DIED, began_s, now())
        await asyncio.sleep(draw.uniform(0.0, 1.0))
        await stage.start_gateway()


async def restart(stage: Stage, draw: random.Random) -> None:
    """Stop the gateway as systemd does, and start it again."""
    del draw
    async with stage.gateway_lock:
        await stage.stop_gateway()
        await stage.start_gateway()


async def reload(stage: Stage, draw: random.Random) -> None:
    """Have the configuration read again."""
    del draw
    async with stage.gateway_lock:
        os.kill(stage.gateway.pid, signal.SIGHUP)


async def pause_worker(stage: Stage, draw: random.Random) -> None:
    """Stop a worker between two instructions, and let it go on."""
    async with stage.gateway_lock:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, IndexError):
            pid = draw.choice(stage.gateway.worker_pids)
            began_s = now()
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(draw.uniform(0.2, 3.0))
            finally:
                os.kill(pid, signal.SIGCONT)
                stage.ledger.note(Effect.PAUSED, began_s, now())


async def pause_supervisor(stage: Stage, draw: random.Random) -> None:
    """Stop the supervisor; mail flows through the workers."""
    async with stage.gateway_lock:
        os.kill(stage.gateway.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(draw.uniform(0.2, 2.0))
        finally:
            os.kill(stage.gateway.pid, signal.SIGCONT)


# --- The list ---


async def kill_redis_keeping(stage: Stage, draw: random.Random) -> None:
    """Kill Redis, and start it with all it had been told."""
    async with stage.list_lock:
        began_s, server = now(), stage.group.servers[0]
        await blocking(server.kill)
        await asyncio.sleep(draw.uniform(0.0, 1.5))
        await blocking(server.restart)
        stage.ledger.note(Effect.LIST_AWAY, began_s, now())


async def kill_redis_losing(stage: Stage, draw: random.Random) -> None:
    """Kill Redis, and start it empty."""
    async with stage.list_lock:
        began_s, server = now(), stage.group.servers[0]
        await blocking(server.kill)
        await blocking(lambda: empty(server))
        await asyncio.sleep(draw.uniform(0.0, 1.5))
        await blocking(server.restart)
        stage.ledger.note(Effect.LIST_AWAY, began_s, now())
        stage.ledger.note(Effect.LIST_LOST, -math.inf, now())


async def stop_redis(stage: Stage, draw: random.Random) -> None:
    """Have Redis hang, its connections open."""
    async with stage.list_lock:
        began_s, server = now(), stage.group.servers[await blocking(stage.group.master)]
        # With Sentinels short of what makes them fail over.
        server.pause()
        try:
            await asyncio.sleep(draw.uniform(0.2, 0.7 if stage.group.sentinels else 2.0))
        finally:
            server.resume()
            stage.ledger.note(Effect.LIST_AWAY, began_s, now())


async def pause_clients(stage: Stage, draw: random.Random) -> None:
    """Have Redis take commands and not do them (CLIENT PAUSE)."""
    async with stage.list_lock:
        began_s, server = now(), stage.group.servers[0]
        pause_s = draw.uniform(0.2, 2.0)
        mode = draw.choice(("ALL", "WRITE"))
        await blocking(lambda: server.ask("CLIENT", "PAUSE", int(pause_s * 1000), mode))
        await asyncio.sleep(pause_s)
        stage.ledger.note(Effect.LIST_AWAY, began_s, now())


async def fill_redis(stage: Stage, draw: random.Random) -> None:
    """Have Redis refuse what needs memory (noeviction)."""
    await _with_memory(stage, draw, "noeviction", Effect.LIST_AWAY)


async def evict(stage: Stage, draw: random.Random) -> None:
    """Have Redis forget keys at random, as if it were a cache."""
    await _with_memory(stage, draw, "allkeys-random", Effect.LIST_LOST)


async def _with_memory(stage: Stage, draw: random.Random, policy: str, effect: Effect) -> None:
    async with stage.list_lock:
        began_s, server = now(), stage.group.servers[0]
        used = await blocking(lambda: _used_octets(server))
        limit = 1 if effect is Effect.LIST_AWAY else used - 20_000
        await blocking(lambda: server.ask("CONFIG", "SET", "maxmemory-policy", policy))
        await blocking(lambda: server.ask("CONFIG", "SET", "maxmemory", limit))
        await asyncio.sleep(draw.uniform(0.2, 1.5))
        await blocking(lambda: server.ask("CONFIG", "SET", "maxmemory", 0))
        stage.ledger.note(Effect.LIST_AWAY, began_s, now())
        if effect is Effect.LIST_LOST:
            stage.ledger.note(effect, -math.inf, now())


async def cut_redis(stage: Stage, draw: random.Random) -> None:
    """Reset all connections to the list."""
    del draw
    async with stage.list_lock:
        for proxy in stage.group.proxies:
            proxy.cut()
        stage.ledger.note(Effect.LIST_AWAY, now(), now())


async def freeze_redis(stage: Stage, draw: random.Random) -> None:
    """Leave all connections to the list half-open."""
    del draw
    async with stage.list_lock:
        began_s = now()
        for proxy in stage.group.proxies:
            proxy.freeze()
        await asyncio.sleep(0.5)
        stage.ledger.note(Effect.LIST_AWAY, began_s, now())


async def lose_redis_replies(stage: Stage, draw: random.Random) -> None:
    """Have the list do what it is told, and nobody hear of it."""
    async with stage.list_lock:
        began_s = now()
        for proxy in stage.group.proxies:
            proxy.loses_replies = True
        await asyncio.sleep(draw.uniform(0.1, 0.7))
        for proxy in stage.group.proxies:
            proxy.loses_replies = False
            proxy.cut()
        stage.ledger.note(Effect.LIST_AWAY, began_s, now())


async def fail_over(stage: Stage, draw: random.Random) -> None:
    """Have the Sentinels make the replica the master."""
    del draw
    async with stage.list_lock:
        await _steady(stage)
        began_s, group = now(), stage.group
        before = await blocking(group.master)

        def has_moved() -> bool:
            # Refused while another failover has not quite come to its end.
            with (
                contextlib.suppress(redis.ResponseError),
                redis.Redis("127.0.0.1", group.sentinels[0], protocol=2) as client,
            ):
                client.execute_command("SENTINEL", "FAILOVER", GROUP)
            return group.master() != before

        await blocking(lambda: wait_until(has_moved, "a failover", 40.0))
        await _steady(stage)
        _note_failover(stage, began_s)


async def kill_master(stage: Stage, draw: random.Random) -> None:
    """Kill the master; it comes back as a replica."""
    async with stage.list_lock:
        await _steady(stage)
        began_s, group = now(), stage.group
        before = await blocking(group.master)
        await blocking(group.servers[before].kill)
        await blocking(lambda: wait_until(lambda: group.master() != before, "a failover", 40.0))
        await asyncio.sleep(draw.uniform(0.0, 1.0))
        await blocking(group.servers[before].restart)
        await _steady(stage)
        _note_failover(stage, began_s)


async def _steady(stage: Stage) -> None:
    await blocking(lambda: wait_until(lambda: stage.group.is_steady, "master and replica", 30.0))


async def watch_master(stage: Stage) -> None:
    """Note every failover, asked for or not: Sentinels take a row of short faults for a death.

    The old master takes what it is told until it is made a replica; all of that is lost.
    """
    known: tuple[int, int] | None = None
    while True:
        seen_s = now()
        await asyncio.sleep(_LOOK_S)
        group = stage.group
        if not group.sentinels:
            continue
        found = id(group), await blocking(group.master)
        if known is not None and found[0] == known[0] and found != known:
            await _steady(stage)
            _note_failover(stage, seen_s)
        known = found


def _note_failover(stage: Stage, began_s: float) -> None:
    """Replication is asynchronous: what the old master was told last may be lost."""
    stage.ledger.note(Effect.LIST_AWAY, began_s, now())
    stage.ledger.note(Effect.LIST_LOST, began_s - 2.0, now())


# --- The mail server behind ---


async def refuse_for_now(stage: Stage, draw: random.Random) -> None:
    """4xx to some commands."""
    verb = draw.choice(("greeting", "EHLO", "MAIL", "RCPT", "DATA", "content", "content"))
    for _ in range(draw.randint(1, 4)):
        stage.house.plan(verb, Trouble("reply", draw.choice((_LATER, _LATER, _CLOSING))))


async def refuse_for_good(stage: Stage, draw: random.Random) -> None:
    """5xx to a command."""
    verb = draw.choice(("MAIL", "RCPT", "DATA", "content"))
    stage.house.plan(verb, Trouble("reply", _NEVER))


async def be_late(stage: Stage, draw: random.Random) -> None:
    """Replies that take their time, some more than the gateway grants."""
    verb = draw.choice(("greeting", "MAIL", "RCPT", "DATA", "content", "content"))
    for _ in range(draw.randint(1, 4)):
        stage.house.plan(verb, Trouble("delay", delay_s=draw.choice((0.05, 0.3, 1.0, 4.0))))


async def lose_reply(stage: Stage, draw: random.Random) -> None:
    """Connections that break in place of a reply, after the work was done or before."""
    verb = draw.choice(("greeting", "EHLO", "XCLIENT", "MAIL", "RCPT", "DATA", *["content"] * 4))
    for _ in range(draw.randint(1, 3)):
        kind = draw.choice(("lost", "lost", "undone", "half", "silence"))
        stage.house.plan(verb, Trouble(kind))


async def cut_downstream(stage: Stage, draw: random.Random) -> None:
    """Reset all connections to the mail server, whatever goes on in them."""
    del draw
    stage.house.cut()


async def downstream_away(stage: Stage, draw: random.Random) -> None:
    """Have the mail server be gone for a while."""
    await stage.house.close()
    await asyncio.sleep(draw.uniform(0.2, 2.0))
    await stage.house.reopen()


# --- The clients ---


async def vanish(stage: Stage, draw: random.Random) -> None:
    """Clients that are gone before the reply, or in the middle of content."""
    for _ in range(draw.randint(1, 5)):
        stage.senders.vanishing.append(draw.choice((*VANISHINGS[:3], *VANISHINGS)))


def _used_octets(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("memory")["used_memory"])


_SINGLE, _SENTINEL = "single", "sentinel"

FAULTS = (
    Fault("gateway: kill -9 of a worker", 10, kill_worker),
    Fault("gateway: kill -9 of all, restart", 3, kill_all),
    Fault("gateway: SIGTERM, restart", 3, restart),
    Fault("gateway: SIGHUP", 6, reload),
    Fault("gateway: SIGSTOP of a worker", 6, pause_worker),
    Fault("gateway: SIGSTOP of the supervisor", 2, pause_supervisor),
    Fault("redis: killed, restarted with its data", 3, kill_redis_keeping, _SINGLE),
    Fault("redis: killed, restarted empty", 2, kill_redis_losing, _SINGLE),
    Fault("redis: SIGSTOP", 4, stop_redis),
    Fault("redis: CLIENT PAUSE", 4, pause_clients, _SINGLE),
    Fault("redis: out of memory, noeviction", 3, fill_redis, _SINGLE),
    Fault("redis: evicts at random", 2, evict, _SINGLE),
    Fault("redis: connections cut", 5, cut_redis),
    Fault("redis: connections half-open", 4, freeze_redis),
    Fault("redis: replies lost", 4, lose_redis_replies),
    Fault("sentinel: failover", 3, fail_over, _SENTINEL),
    Fault("sentinel: master killed", 2, kill_master, _SENTINEL),
    Fault("downstream: 4xx", 25, refuse_for_now),
    Fault("downstream: 5xx", 4, refuse_for_good),
    Fault("downstream: late replies", 20, be_late),
    Fault("downstream: replies lost", 35, lose_reply),
    Fault("downstream: connections cut", 12, cut_downstream),
    Fault("downstream: away", 4, downstream_away),
    Fault("client: vanishes", 35, vanish),
)
