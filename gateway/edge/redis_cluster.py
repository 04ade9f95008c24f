"""A Redis Cluster: who owns which key, and what to do when that has changed.

Each node has a `Batcher` of its own. The map of slots is learned from any node that answers, mended
by every ``MOVED``, and learned anew after a failure. What the commands mean may not live here.

Fails with `TrackingListError` as `redis_batch` does. A command that was redirected was not
executed, so sending it once more, to the right node, is no repetition.
"""

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from hiredis import ReplyError

from gateway.edge.redis_batch import Batcher, Greeting
from gateway.edge.redis_wire import Command, Server, Wire
from gateway.errors import TrackingListError, TrackingListTimeoutError

_SLOTS = 16384
_HOPS = 3
_KEYS_THIRD = (b"EVAL", b"SCAN")

Place = tuple[str, int]


class ClusterLink:
    """Link to a cluster; see `RedisLink`.

    Attributes:
        greeting: each node is greeted with what belongs there.
    """

    def __init__(
        self,
        seeds: Sequence[Server],
        dial: Callable[[Server], Awaitable[Wire]],
        timeout_s: float,
    ) -> None:
        """Ask nobody yet.

        Args:
            seeds: some nodes, of which one must answer; all nodes let us in like the first.
            dial: connects to a node.
            timeout_s: how long a call waits at most.
        """
        self._seeds = tuple(seeds)
        self._dial = dial
        self._timeout_s = timeout_s
        self._nodes: dict[Place, Batcher] = {}
        self._owners: list[Place] = []
        self._learning: asyncio.Task[None] | None = None
        self.greeting: Greeting = tuple

    async def run(self, commands: Sequence[Command]) -> list[object]:
        """See `RedisLink.run`."""
        give_up_at = asyncio.get_running_loop().time() + self._timeout_s
        if not self._owners:
            await self._learned(give_up_at)
        places = [self._owner(command) for command in commands]
        try:
            replies = await self._ask(commands, places, give_up_at)
            for _ in range(_HOPS):
                moved = [i for i, reply in enumerate(replies) if _is_redirection(reply)]
                if not moved:
                    break
                await self._follow(commands, moved, replies, give_up_at)
        except TrackingListError:
            # After a failover nobody tells us: ask anew who owns what.
            self._owners = []
            raise
        return replies

    async def close(self) -> None:
        """See `RedisLink.close`."""
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.wait({self._learning})
        for node in self._nodes.values():
            await node.close()

    async def _ask(
        self, commands: Sequence[Command], places: Sequence[Place], give_up_at: float
    ) -> list[object]:
        """Ask the nodes named, all at once."""
        first = places[0]
        if all(place == first for place in places):
            return await self._node(first).run(commands, give_up_at)
        shares: dict[Place, list[int]] = {}
        for index, place in enumerate(places):
            shares.setdefault(place, []).append(index)
        answers = await asyncio.gather(
            *(
                self._node(place).run([commands[i] for i in share], give_up_at)
                for place, share in shares.items()
            ),
            return_exceptions=True,
        )
        replies: list[object] = [None] * len(commands)
        for share, answer in zip(shares.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            for index, reply in zip(share, answer, strict=True):
                replies[index] = reply
        return replies

    async def _follow(
        self,
        commands: Sequence[Command],
        moved: Sequence[int],
        replies: list[object],
        give_up_at: float,
    ) -> None:
        """Send what was redirected to where it belongs, and put the replies in place."""
        for index in moved:
            kind, slot, place = _redirection(replies[index])
            if kind == "MOVED":
                if self._owners:  # another call may have thrown the map away meanwhile
                    self._owners[slot] = place
                (replies[index],) = await self._node(place).run([commands[index]], give_up_at)
            else:
                _, replies[index] = await self._node(place).run(
                    [(b"ASKING",), commands[index]], give_up_at
                )

    def _owner(self, command: Command) -> Place:
        position = 3 if command[0] in _KEYS_THIRD else 1
        key = command[position] if len(command) > position else b""
        return self._owners[_slot(key) if isinstance(key, bytes) else 0]

    def _node(self, place: Place) -> Batcher:
        node = self._nodes.get(place)
        if node is None:
            server = replace(self._seeds[0], host=place[0], port=place[1])
            node = Batcher(str(server), partial(self._dial, server), self._timeout_s)
            node.greeting = partial(self._greeting_of, place)
            self._nodes[place] = node
        return node

    def _greeting_of(self, place: Place) -> Sequence[Command]:
        return [c for c in self.greeting() if self._owners and self._owner(c) == place]

    async def _learned(self, give_up_at: float) -> None:
        """Have the map learned; whoever gives up waiting leaves that to go on."""
        loop = asyncio.get_running_loop()
        if self._learning is None:
            self._learning = loop.create_task(self._learn())
        learning = self._learning
        await asyncio.wait({learning}, timeout=give_up_at - loop.time())
        if not learning.done():
            raise TrackingListTimeoutError("redis cluster: no node answers in time")
        if not self._owners:
            raise TrackingListError(
                "redis cluster: no node that answers knows an owner for all keys"
            )

    async def _learn(self) -> None:
        try:
            places = dict.fromkeys([*self._nodes, *((s.host, s.port) for s in self._seeds)])
            for place in places:
                try:
                    (answer,) = await self._node(place).run([(b"CLUSTER", b"SLOTS")])
                except TrackingListError:
                    continue
                owners = _owners(answer, place)
                if owners:
                    self._owners = owners
                    return
        finally:
            self._learning = None


def _owners(answer: object, asked: Place) -> list[Place]:
    """Read CLUSTER SLOTS; nothing if it is no answer, or some slot has no owner."""
    if not isinstance(answer, list):
        return []
    owners: list[Place | None] = [None] * _SLOTS
    for first, last, master, *_ in answer:
        # A node that does not know its own address leaves it out.
        host = master[0].decode("ascii") if master[0] else asked[0]
        owners[first : last + 1] = [(host, master[1])] * (last + 1 - first)
    known = [place for place in owners if place is not None]
    return known if len(known) == _SLOTS else []


def _slot(key: bytes) -> int:
    """Return the slot of a key: of its hash tag, if it has one."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1)
    if start >= 0 and end > start + 1:
        key = key[start + 1 : end]
    return crc_hqx(key, 0) % _SLOTS


def _is_redirection(reply: object) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith(("MOVED ", "ASK "))


def _redirection(reply: object) -> tuple[str, int, Place]:
    kind, slot, place = str(reply).split()
    host, _, port = place.rpartition(":")
    return kind, int(slot), (host, int(port))
