"""What a Redis says of itself: for `doctor` and `/readyz`, never on the way of a message.

Only reads: INFO, TIME and CONFIG GET, of every server that holds a part of the tracking list. Fails
with `TrackingListError` if one does not answer, with `ConfigError` if the URL is not understood.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from gateway.edge.redis_batch import Batcher
from gateway.edge.redis_link import open_link
from gateway.edge.redis_url import Kind, parse
from gateway.edge.redis_wire import dial
from gateway.errors import TrackingListError

_COMMANDS = ((b"INFO",), (b"TIME",), (b"CONFIG", b"GET", b"save"))


@dataclass(frozen=True, slots=True)
class RedisState:
    """One server.

    Attributes:
        name: where it is, as far as that is known.
        info: fields of INFO; empty if an ACL forbids it.
        clock_ahead_s: how far its clock is ahead of ours; None if it does not tell.
        snapshots: when it saves, ``""`` for never; None if it does not tell.
    """

    name: str
    info: Mapping[str, str]
    clock_ahead_s: float | None
    snapshots: str | None

    def number(self, field: str) -> int:
        """Return a field that is a whole number, 0 if it is missing."""
        text = self.info.get(field, "")
        return int(text) if text.isdigit() else 0

    @property
    def may_evict(self) -> bool:
        """Return whether it throws keys away when its memory is full."""
        policy = self.info.get("maxmemory_policy", "noeviction")
        return policy != "noeviction" and self.number("maxmemory") > 0


async def inspect(url: str, timeout_s: float) -> Sequence[RedisState]:
    """Ask every server that holds a part: the server, the master, or the masters of a cluster.

    Args:
        url: see `redis_url`.
        timeout_s: for each.

    Raises:
        ConfigError: the URL cannot be understood.
        TrackingListError: one does not answer.
    """
    target = parse(url)
    link = open_link(url, timeout_s)
    try:
        if target.kind is not Kind.CLUSTER:
            before_s = time.time()
            name = target.group or str(target.member)
            return [_state(name, await link.run(_COMMANDS), before_s)]
        (slots,) = await link.run([(b"CLUSTER", b"SLOTS")])
    finally:
        await link.close()
    states = []
    for host, port in _masters(slots, target.member.host):
        server = replace(target.member, host=host, port=port)
        node = Batcher(str(server), partial(dial, server), timeout_s)
        try:
            before_s = time.time()
            states.append(_state(str(server), await node.run(_COMMANDS), before_s))
        finally:
            await node.close()
    return states


def _masters(slots: object, asked: str) -> Sequence[tuple[str, int]]:
    """Read the masters out of CLUSTER SLOTS; a node that does not know its address leaves it out.

    Raises:
        TrackingListError: the answer is none.
    """
    if not isinstance(slots, list):
        raise TrackingListError(f"redis: CLUSTER SLOTS answers {slots}")
    masters = dict.fromkeys((bytes(part[2][0] or b""), int(part[2][1])) for part in slots)
    return [(host.decode("ascii") or asked, port) for host, port in masters]


def _state(name: str, replies: Sequence[object], before_s: float) -> RedisState:
    info, told, saves = replies
    middle_s = (before_s + time.time()) / 2
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else ""
    lines = (line.partition(":") for line in text.splitlines())
    ahead_s = snapshots = None
    match told:
        case [bytes(seconds), bytes(micros)]:
            ahead_s = int(seconds) + int(micros) / 1e6 - middle_s
        case _:
            pass  # an ACL forbids it, as it may the others
    match saves:
        case [_, bytes(when)]:
            snapshots = when.decode("ascii", "replace")
        case _:
            pass
    fields = {key: value for key, colon, value in lines if colon}
    return RedisState(name, fields, ahead_s, snapshots)
