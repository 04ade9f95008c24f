"""What only the list in Redis has to get right: lost replies, dead servers, other workers, room."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from gateway.core.policy import IN_FLIGHT, NEW, Sight, Sighting
from gateway.core.unique_id import UniqueId
from gateway.edge import redis_layout as layout
from gateway.edge.redis_batch import Batcher
from gateway.edge.redis_link import open_link
from gateway.edge.redis_wire import packed
from gateway.edge.tracking_redis import BEAT_TTL_S, RedisTrackingList
from gateway.errors import TrackingListError, TrackingListTimeoutError
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.tracking import (
    LEASE_S,
    entry_of,
    eventually,
    record_of,
    some_id,
    some_token,
)

TIMEOUT_S = 1.0
# Nothing shall be late because somebody else keeps the machine busy for a moment.
PATIENCE_S = 30.0
# Of the wait that a busy machine disturbed least: far from making a connection, which may take 3 s.
SLACK_S = 1.0
TRACKED = 200_000

Open = Callable[..., RedisTrackingList]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    lists: list[RedisTrackingList] = []

    def open_one(
        url: str,
        timeout_s: float = PATIENCE_S,
        **options: Any,  # noqa: ANN401 – as the class has them
    ) -> RedisTrackingList:
        lists.append(RedisTrackingList(open_link(url, timeout_s), **options))
        return lists[-1]

    yield open_one
    for one in lists:
        await one.close()


@pytest.fixture
async def proxy(redis: RedisServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(redis.port) as proxy:
        yield proxy


async def asked_once(
    tracking_list: RedisTrackingList, unique_id: UniqueId, token: bytes
) -> Sighting:
    (sighting,) = await tracking_list.claim([unique_id], token, LEASE_S)
    return sighting


async def claimed(tracking_list: RedisTrackingList, unique_id: UniqueId, token: bytes) -> Sighting:
    """Claim, and ask again whenever a busy machine has let the time-out pass."""
    found: list[Sighting] = []

    async def answers() -> bool:
        with suppress(TrackingListTimeoutError):
            found.append(await asked_once(tracking_list, unique_id, token))
        return bool(found)

    await eventually(answers)
    return found[0]


async def made(redis: RedisServer, key: UniqueId) -> None:
    """Wait until a claim of which nobody has heard stands."""

    async def exists() -> bool:
        return bool(redis.ask("EXISTS", layout.key_of(key)))

    await eventually(exists)


async def loss_is_noticed(tracking_list: RedisTrackingList) -> None:
    """Wait until a connection that was cut has been noticed, while nothing is asked."""

    async def is_noticed() -> bool:
        return _batcher(tracking_list)._wire is None

    await eventually(is_noticed)


def _batcher(tracking_list: RedisTrackingList) -> Batcher:
    assert isinstance(tracking_list._link, Batcher)
    return tracking_list._link


def url_of(proxy: TcpProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}"


async def test_p1_a_claim_whose_reply_is_lost_is_no_duplicate_of_itself(
    redis: RedisServer, proxy: TcpProxy, opened: Open
) -> None:
    tracking_list, key, token = opened(url_of(proxy), TIMEOUT_S), some_id(), some_token()
    await claimed(tracking_list, some_id(), some_token())
    proxy.swallows_replies = True
    with pytest.raises(TrackingListTimeoutError):
        await asked_once(tracking_list, key, token)
    await made(redis, key)
    proxy.swallows_replies = False
    assert await claimed(tracking_list, key, token) == NEW


async def test_p1_a_claim_whose_reply_is_lost_is_released_later(
    redis: RedisServer, proxy: TcpProxy, opened: Open
) -> None:
    tracking_list, key = opened(url_of(proxy), TIMEOUT_S), some_id()
    await claimed(tracking_list, some_id(), some_token())
    proxy.swallows_replies = True
    with pytest.raises(TrackingListTimeoutError):
        await asked_once(tracking_list, key, some_token())
    await made(redis, key)
    proxy.swallows_replies = False

    other = opened(redis.url)
    assert await claimed(other, key, b"another1") == IN_FLIGHT
    await claimed(tracking_list, some_id(), some_token())

    async def is_free() -> bool:
        return await claimed(other, key, b"another1") == NEW

    await eventually(is_free)


async def test_p1_a_late_release_never_touches_a_record(
    redis: RedisServer, proxy: TcpProxy, opened: Open
) -> None:
    tracking_list, key, token = opened(url_of(proxy), TIMEOUT_S), some_id(), some_token()
    await claimed(tracking_list, some_id(), some_token())
    proxy.swallows_replies = True
    with pytest.raises(TrackingListTimeoutError):
        await asked_once(tracking_list, key, token)
    proxy.swallows_replies = False
    # The downstream accepted it, unchecked; the outcome is told, then the orphan is released.
    await tracking_list.confirm([record_of(key)])
    await claimed(tracking_list, some_id(), some_token())

    async def is_mended() -> bool:
        commands = redis.ask("INFO", "commandstats")
        return "eval" in str(commands)

    await eventually(is_mended)
    assert (await claimed(tracking_list, key, some_token())).sight is Sight.SEEN


async def test_a_lost_claim_that_is_made_again_is_not_released_later(
    redis: RedisServer, proxy: TcpProxy, opened: Open
) -> None:
    tracking_list, key, token = opened(url_of(proxy), TIMEOUT_S), some_id(), some_token()
    await claimed(tracking_list, some_id(), some_token())
    proxy.swallows_replies = True
    with pytest.raises(TrackingListTimeoutError):
        await asked_once(tracking_list, key, token)
    proxy.swallows_replies = False
    assert await claimed(tracking_list, key, token) == NEW
    for _ in range(3):
        await claimed(tracking_list, some_id(), some_token())
    assert await claimed(opened(redis.url), key, some_token()) == IN_FLIGHT


async def test_a_claim_that_cannot_be_renewed_is_not_given_up(
    redis: RedisServer, proxy: TcpProxy, opened: Open
) -> None:
    tracking_list, key, token = opened(url_of(proxy), TIMEOUT_S), some_id(), some_token()
    await claimed(tracking_list, key, token)
    proxy.swallows_replies = True
    with pytest.raises(TrackingListTimeoutError):
        await asked_once(tracking_list, key, token)
    proxy.swallows_replies = False
    for _ in range(3):
        await claimed(tracking_list, some_id(), some_token())
    assert await claimed(opened(redis.url), key, some_token()) == IN_FLIGHT


async def test_a_copy_that_gives_up_takes_nothing_from_the_one_in_flight(
    redis: RedisServer, proxy: TcpProxy, opened: Open
) -> None:
    tracking_list, key, token, copy = (
        opened(url_of(proxy), TIMEOUT_S),
        some_id(),
        some_token(),
        some_token(),
    )
    await claimed(tracking_list, key, token)
    assert await claimed(tracking_list, key, copy) == IN_FLIGHT
    await tracking_list.release([key], copy)
    proxy.swallows_replies = True
    with pytest.raises(TrackingListTimeoutError):
        await asked_once(tracking_list, key, token)
    proxy.swallows_replies = False
    for _ in range(3):
        await claimed(tracking_list, some_id(), some_token())
    assert await claimed(opened(redis.url), key, some_token()) == IN_FLIGHT


async def test_a_release_whose_reply_or_request_is_lost_is_made_up_for(
    redis: RedisServer, proxy: TcpProxy, opened: Open
) -> None:
    tracking_list, key, token = opened(url_of(proxy), TIMEOUT_S), some_id(), some_token()
    await claimed(tracking_list, key, token)
    proxy.swallows_requests = True
    with pytest.raises(TrackingListTimeoutError):
        await tracking_list.release([key], token)
    proxy.swallows_requests = False
    other = opened(redis.url)
    assert await claimed(other, key, b"another1") == IN_FLIGHT
    await claimed(tracking_list, some_id(), some_token())

    async def is_free() -> bool:
        return await claimed(other, key, b"another1") == NEW

    await eventually(is_free)


async def test_a_cancelled_claim_is_released_later(redis: RedisServer, opened: Open) -> None:
    tracking_list, key = opened(redis.url), some_id()
    await claimed(tracking_list, some_id(), some_token())
    task = asyncio.ensure_future(asked_once(tracking_list, key, some_token()))

    async def is_made() -> bool:
        return bool(redis.ask("EXISTS", layout.key_of(key)))

    # Cancelled while the reply is on its way: the loop does not read before this task waits.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    while not redis.ask("EXISTS", layout.key_of(key)):
        pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_made()
    await claimed(tracking_list, some_id(), some_token())

    async def is_gone() -> bool:
        return not redis.ask("EXISTS", layout.key_of(key))

    await eventually(is_gone)


async def test_p4_a_late_reply_is_never_taken_for_anothers(
    redis: RedisServer, opened: Open
) -> None:
    tracking_list, seen, fresh = opened(redis.url, TIMEOUT_S), some_id(), some_id()
    await tracking_list.confirm([record_of(seen)])
    redis.pause()
    try:
        with pytest.raises(TrackingListTimeoutError):
            await asked_once(tracking_list, seen, some_token())
    finally:
        redis.resume()
    assert await claimed(tracking_list, fresh, some_token()) == NEW
    assert (await claimed(tracking_list, seen, some_token())).sight is Sight.SEEN


async def test_p4_a_stalled_server_costs_no_more_than_the_time_out(
    redis: RedisServer, opened: Open
) -> None:
    tracking_list = opened(redis.url, TIMEOUT_S)
    await claimed(tracking_list, some_id(), some_token())
    redis.pause()
    try:
        begun = time.monotonic()
        outcomes = await asyncio.gather(
            *(asked_once(tracking_list, some_id(), some_token()) for _ in range(50)),
            return_exceptions=True,
        )
        waited_s = time.monotonic() - begun
    finally:
        redis.resume()
    assert all(isinstance(outcome, TrackingListTimeoutError) for outcome in outcomes)
    assert TIMEOUT_S <= waited_s < 50 * TIMEOUT_S / 2, "they wait together"


async def test_p4_a_server_that_takes_no_connection_costs_no_more_than_the_time_out(
    redis: RedisServer, opened: Open
) -> None:
    redis.pause()
    try:
        tracking_list = opened(redis.url, TIMEOUT_S)
        waits_s = []
        for _ in range(4):
            begun = time.monotonic()
            with pytest.raises(TrackingListTimeoutError):
                await asked_once(tracking_list, some_id(), some_token())
            waits_s.append(time.monotonic() - begun)
        assert min(waits_s) < TIMEOUT_S + SLACK_S
    finally:
        redis.resume()

    async def answers() -> bool:
        try:
            return await asked_once(tracking_list, some_id(), some_token()) == NEW
        except TrackingListError:
            return False

    await eventually(answers)


async def test_p4_nobody_there_fails_at_once(opened: Open) -> None:
    tracking_list = opened("redis://127.0.0.1:1", 60.0)
    begun = time.monotonic()
    with pytest.raises(TrackingListError, match=r"127\.0\.0\.1:1"):
        await asked_once(tracking_list, some_id(), some_token())
    assert time.monotonic() - begun < 30.0


async def test_it_comes_back_by_itself_after_every_kind_of_loss(
    proxy: TcpProxy, opened: Open
) -> None:
    tracking_list, key = opened(url_of(proxy), TIMEOUT_S), some_id()
    await tracking_list.confirm([record_of(key)])
    proxy.cut()

    async def is_seen() -> bool:
        try:
            return (await asked_once(tracking_list, key, some_token())).sight is Sight.SEEN
        except TrackingListError:
            return False

    await eventually(is_seen)
    proxy.swallows_replies = True
    with pytest.raises(TrackingListError):
        await asked_once(tracking_list, key, some_token())
    proxy.swallows_replies = False
    await eventually(is_seen)


async def test_a_refused_command_is_an_error_and_the_connection_stays(
    redis: RedisServer, proxy: TcpProxy, opened: Open
) -> None:
    tracking_list, good, bad = opened(url_of(proxy)), some_id(), some_id()
    redis.ask("LPUSH", layout.key_of(bad), "not a string")
    with pytest.raises(TrackingListError, match="WRONGTYPE"):
        await asked_once(tracking_list, bad, some_token())
    assert await claimed(tracking_list, good, some_token()) == NEW
    assert proxy.connections == 1


async def test_a_server_that_has_become_a_replica_is_left(
    redis: RedisServer, proxy: TcpProxy, opened: Open
) -> None:
    tracking_list = opened(url_of(proxy))
    await claimed(tracking_list, some_id(), some_token())
    redis.ask("REPLICAOF", "127.0.0.1", 1)
    try:
        with pytest.raises(TrackingListError, match="READONLY"):
            await asked_once(tracking_list, some_id(), some_token())
    finally:
        redis.ask("REPLICAOF", "NO", "ONE")
    assert await claimed(tracking_list, some_id(), some_token()) == NEW
    assert proxy.connections == 2


async def test_p8_out_of_memory_is_an_error_and_records_are_still_read(
    redis: RedisServer, opened: Open
) -> None:
    tracking_list, key = opened(redis.url), some_id()
    await tracking_list.confirm([record_of(key)])
    redis.ask("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(TrackingListError, match="OOM"):
            await asked_once(tracking_list, some_id(), some_token())
        assert len(await tracking_list.known(key.message)) == 1
    finally:
        redis.ask("CONFIG", "SET", "maxmemory", 0)
    assert (await claimed(tracking_list, key, some_token())).sight is Sight.SEEN


async def test_a_value_that_cannot_be_read_is_no_sighting(redis: RedisServer, opened: Open) -> None:
    tracking_list = opened(redis.url)
    for value in (b"", b"X", b"S", b"Sshort", b"P" + bytes(20), b"C", b"C" + bytes(15), bytes(44)):
        key = some_id()
        redis.ask("SET", layout.key_of(key), value)
        assert await claimed(tracking_list, key, some_token()) == NEW


async def test_claims_of_a_dead_worker_are_free_when_its_heart_has_stopped(
    redis: RedisServer, opened: Open
) -> None:
    dead, other, key = opened(redis.url, beat_ttl_s=0.5), opened(redis.url), some_id()
    begun = time.monotonic()
    await claimed(dead, key, some_token())
    heart = dead._heart
    assert heart is not None
    heart.cancel()
    token = some_token()

    async def is_free() -> bool:
        return await claimed(other, key, token) == NEW

    await eventually(is_free)
    assert 0.5 <= time.monotonic() - begun < LEASE_S / 2


async def test_a_worker_beats_again_when_the_server_has_lost_everything(
    redis: RedisServer, proxy: TcpProxy, opened: Open
) -> None:
    tracking_list, key = opened(url_of(proxy)), some_id()
    await claimed(tracking_list, some_id(), some_token())
    redis.ask("FLUSHALL")
    proxy.cut()
    await loss_is_noticed(tracking_list)
    assert await claimed(tracking_list, key, some_token()) == NEW
    assert len(redis.ask("KEYS", "mo:w:*")) == 1
    assert await claimed(opened(redis.url), key, some_token()) == IN_FLIGHT


async def test_a_worker_that_slept_beats_before_it_claims(redis: RedisServer, opened: Open) -> None:
    clock = [1000.0]
    sleeper, other, key = (
        opened(redis.url, monotonic=lambda: clock[0]),
        opened(redis.url),
        some_id(),
    )
    await claimed(sleeper, some_id(), some_token())
    assert sleeper._heart is not None
    sleeper._heart.cancel()
    clock[0] += BEAT_TTL_S
    assert redis.ask("DEL", *redis.ask("KEYS", "mo:w:*")) == 1, "it had its end by then"
    await claimed(sleeper, key, some_token())
    assert len(redis.ask("KEYS", "mo:w:*")) == 1
    assert await claimed(other, key, some_token()) == IN_FLIGHT


async def test_the_heart_goes_on_after_redis_was_away(redis: RedisServer, opened: Open) -> None:
    tracking_list = opened(redis.url, 0.3, beat_ttl_s=0.6)
    await claimed(tracking_list, some_id(), some_token())
    redis.pause()
    await asyncio.sleep(1.0)  # two beats are missed
    redis.resume()

    async def beats() -> bool:
        return bool(redis.ask("KEYS", "mo:w:*"))

    await eventually(beats)


async def test_a_trail_is_read_page_by_page(redis: RedisServer, opened: Open) -> None:
    tracking_list = opened(redis.url)
    for start in range(0, 1400, 200):
        entries = [entry_of("x@a.example", recipient=str(i)) for i in range(start, start + 200)]
        await tracking_list.release([], some_token(), entries)
    trail = await tracking_list.trail(b"x@a.example", 1250)
    assert [entry.recipient for entry in trail] == [str(i) for i in range(150, 1400)]


async def test_keys_and_entries_of_others_are_passed_over(redis: RedisServer, opened: Open) -> None:
    tracking_list, key = opened(redis.url), some_id()
    await tracking_list.confirm([record_of(key)], [entry_of()])
    for tail in (b"short", b"!" * 11, b"x" * 12, b"A" * 22 + b"="):
        redis.ask("SET", layout.pattern_of(key.message)[:-1] + tail, b"S")
    for field, value in (("e", "no JSON"), ("e", '{"at_s": 1}'), ("x", "y")):
        redis.ask("XADD", "mo:j", "*", field, value)
    assert [unique_id for unique_id, _ in await tracking_list.known(key.message)] == [key]
    assert list(await tracking_list.latest(10)) == [entry_of()]


async def test_p8_every_key_has_an_end(redis: RedisServer, opened: Open) -> None:
    tracking_list, key, token = opened(redis.url), some_id(), some_token()
    await tracking_list.claim([key, some_id(key.message)], token, LEASE_S)
    await tracking_list.confirm([record_of(key)], [entry_of(str(i)) for i in range(200)])
    await tracking_list.release([], token, [entry_of()])
    keys = redis.ask("KEYS", "*")
    assert len(keys) > 60
    with redis.client() as client:
        ends = {name: client.pttl(name) for name in keys}
    assert [name for name, ttl in ends.items() if ttl <= 0] == []


async def test_a_key_and_its_value_fit_the_room_planned_for_them() -> None:
    plain, variant = some_id(), some_id(variant=b"variant!")
    assert len(layout.key_of(plain)) == 32
    assert len(layout.key_of(variant)) == 43
    for record in (
        record_of(plain, note=b"q" * 64, copies=2**40, first_seen_s=2**40),
        record_of(plain, note=b"q" * 64, provisional_at_s=2**40),
    ):
        assert len(layout.record_value(record)) == layout.VALUE_OCTETS
    assert len(layout.claim_value(bytes(8), bytes(8))) == 17


@pytest.mark.parametrize("note", [b"", b"4ZkAbCdEfGhIjKlMnOpQrS"], ids=["bare", "queue-id"])
def test_p8_a_tracked_recipient_takes_200_octets_at_most(redis: RedisServer, note: bytes) -> None:
    def used() -> int:
        with redis.client() as client:
            return int(client.info("memory")["used_memory"])

    before = used()
    records = (
        record_of(UniqueId(os.urandom(12), os.urandom(8)), note=note) for _ in range(TRACKED)
    )
    commands = b"".join(
        packed(
            layout.set_record(
                layout.key_of(record.unique_id), layout.record_value(record), 432_000_000
            )
        )
        for record in records
    )
    subprocess.run(
        ("redis-cli", "-p", str(redis.port), "--pipe"), input=commands, check=True, timeout=100
    )
    octets = (used() - before) / TRACKED
    print(f"{octets:.1f} octets a recipient, note of {len(note)} octets")
    assert redis.ask("DBSIZE") == TRACKED
    assert octets <= 200
