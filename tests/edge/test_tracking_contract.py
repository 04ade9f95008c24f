"""What every tracking list does, whatever it is made of: one suite for Redis, SQLite and memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.core.policy import IN_FLIGHT, NEW, Sight, Sighting
from gateway.core.unique_id import UniqueId
from gateway.edge.redis_link import open_link
from gateway.edge.tracking_memory import MemoryTrackingList
from gateway.edge.tracking_redis import RedisTrackingList
from gateway.edge.tracking_sqlite import SqliteTrackingList
from gateway.errors import TrackingListError
from tests.support.redis import RedisServer
from tests.support.tracking import (
    FINGERPRINT,
    LEASE_S,
    Both,
    entry_of,
    eventually,
    record_of,
    some_id,
    some_token,
)

# Nothing shall be late because somebody else keeps the machine busy for a moment.
PATIENCE_S = 30.0
SHORT_S = 0.15
# Two of three beats may be missed.
BEAT_TTL_S = 3.0

Open = Callable[..., Both]


@pytest.fixture(params=["redis", "redis-unix", "sqlite", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def opened(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Return what opens one gateway's instance after another, all of the same list."""
    lists: list[Both] = []

    def open_one(
        *, beat_ttl_s: float = 30.0, entries: int = 1000, now: Callable[[], float] = time.time
    ) -> Both:
        one: Both
        match kind:
            case "memory":
                one = MemoryTrackingList(entries=entries, now=now)
            case "sqlite":
                one = SqliteTrackingList(
                    tmp_path / "seen.db",
                    PATIENCE_S,
                    entries=entries,
                    beat_ttl_s=beat_ttl_s,
                    now=now,
                )
            case _:
                server: RedisServer = request.getfixturevalue("redis")
                socket = server.folder / "redis.sock"
                url = f"unix://{socket}" if kind == "redis-unix" else server.url
                one = RedisTrackingList(
                    open_link(url, PATIENCE_S), entries=entries, beat_ttl_s=beat_ttl_s, now=now
                )
        lists.append(one)
        return one

    yield open_one
    for one in lists:
        await one.close()


async def claimed(tracking_list: Both, unique_id: UniqueId, token: bytes) -> Sighting:
    """Claim one id and return what was sighted."""
    (sighting,) = await tracking_list.claim([unique_id], token, LEASE_S)
    return sighting


async def test_the_first_claim_is_new(opened: Open) -> None:
    assert await claimed(opened(), some_id(), some_token()) == NEW


async def test_another_token_sees_it_in_flight(opened: Open) -> None:
    tracking_list, key = opened(), some_id()
    await claimed(tracking_list, key, some_token())
    assert await claimed(tracking_list, key, some_token()) == IN_FLIGHT
    assert await claimed(tracking_list, key, some_token()) == IN_FLIGHT


async def test_p1_the_same_token_is_never_a_duplicate_of_itself(opened: Open) -> None:
    tracking_list, key, token = opened(), some_id(), some_token()
    for _ in range(5):
        assert await claimed(tracking_list, key, token) == NEW


async def test_each_recipient_is_claimed_for_itself(opened: Open) -> None:
    tracking_list = opened()
    ours, theirs, seen = (some_id(b"one message!") for _ in range(3))
    await tracking_list.claim([theirs], some_token(), LEASE_S)
    await tracking_list.confirm([record_of(seen)])
    sightings = await tracking_list.claim([seen, ours, theirs], some_token(), LEASE_S)
    assert [sighting.sight for sighting in sightings] == [Sight.SEEN, Sight.NEW, Sight.IN_FLIGHT]


async def test_a_variant_is_another_id(opened: Open) -> None:
    tracking_list, key = opened(), some_id()
    other = UniqueId(key.message, key.recipient, b"variant!")
    await tracking_list.confirm([record_of(key)])
    assert await claimed(tracking_list, other, some_token()) == NEW


@pytest.mark.parametrize(
    "unique_id",
    [
        UniqueId(b"{}{}{}{}{}{}", b"}{}{}{}{"),
        UniqueId(bytes(12), bytes(8)),
        UniqueId(b"\xff" * 12, b"\xff" * 8, b"\xff" * 8),
        UniqueId(b"*?[a]^\\-\r\n \0", b"*?[a]\r\n\0", b"*?[a]\r\n\0"),
        UniqueId(b"\xfb\xef\xbe" * 4, b"\xfb\xef\xbe\xfb\xef\xbe\xfb\xef"),
    ],
    ids=["braces", "zeros", "ones", "patterns", "base64-specials"],
)
async def test_any_octets_may_be_in_an_id(opened: Open, unique_id: UniqueId) -> None:
    tracking_list = opened()
    await tracking_list.confirm([record_of(unique_id)])
    assert (await claimed(tracking_list, unique_id, some_token())).sight is Sight.SEEN
    ((known, sighting),) = await tracking_list.known(unique_id.message)
    assert known == unique_id
    assert sighting.fingerprint == FINGERPRINT


async def test_a_confirmed_id_is_seen_with_all_that_was_told(opened: Open) -> None:
    tracking_list, key = opened(), some_id()
    first_seen_s = int(time.time()) - 60
    await claimed(tracking_list, key, some_token())
    await tracking_list.confirm(
        [record_of(key, first_seen_s=first_seen_s, copies=7, note=b"4ZkQueueId")]
    )
    assert await claimed(tracking_list, key, some_token()) == Sighting(
        Sight.SEEN, first_seen_s, FINGERPRINT, 7, b"4ZkQueueId"
    )


async def test_a_provisional_sighting_says_so(opened: Open) -> None:
    tracking_list, key = opened(), some_id()
    at_s = int(time.time())
    await tracking_list.confirm([record_of(key, note=b"4Zk", provisional_at_s=at_s)])
    sighting = await claimed(tracking_list, key, some_token())
    assert (sighting.provisional_at_s, sighting.note) == (at_s, b"4Zk")
    await tracking_list.confirm([record_of(key)])
    assert (await claimed(tracking_list, key, some_token())).provisional_at_s == 0


async def test_a_record_says_whether_a_retry_is_due(opened: Open) -> None:
    tracking_list, key = opened(), some_id()
    await tracking_list.confirm([record_of(key, note=b"4Zk", is_retry_due=True)])
    sighting = await claimed(tracking_list, key, some_token())
    assert (sighting.is_retry_due, sighting.note, sighting.fingerprint) == (
        True,
        b"4Zk",
        FINGERPRINT,
    )
    await tracking_list.confirm([record_of(key)])
    assert not (await claimed(tracking_list, key, some_token())).is_retry_due


async def test_a_long_note_is_cut_and_harms_nothing(opened: Open) -> None:
    tracking_list, key = opened(), some_id()
    await tracking_list.confirm([record_of(key, note=b"q" * 64, copies=3)])
    sighting = await claimed(tracking_list, key, some_token())
    assert b"q" * 22 in sighting.note
    assert (sighting.copies, sighting.fingerprint) == (3, FINGERPRINT)


async def test_a_record_takes_the_place_of_any_claim_or_record(opened: Open) -> None:
    tracking_list, key = opened(), some_id()
    await claimed(tracking_list, key, some_token())
    await tracking_list.confirm([record_of(key, copies=1)])
    await tracking_list.confirm([record_of(key, copies=2)])
    assert (await claimed(tracking_list, key, some_token())).copies == 2


async def test_p1_a_released_id_is_new_for_the_next(opened: Open) -> None:
    tracking_list, key, token = opened(), some_id(), some_token()
    await claimed(tracking_list, key, token)
    await tracking_list.release([key], token)
    assert await claimed(tracking_list, key, some_token()) == NEW


async def test_nobody_releases_another_ones_claim(opened: Open) -> None:
    tracking_list, key = opened(), some_id()
    await claimed(tracking_list, key, some_token())
    await tracking_list.release([key], some_token())
    assert await claimed(tracking_list, key, some_token()) == IN_FLIGHT


async def test_a_release_leaves_records(opened: Open) -> None:
    tracking_list, key, token = opened(), some_id(), some_token()
    await claimed(tracking_list, key, token)
    await tracking_list.confirm([record_of(key)])
    await tracking_list.release([key], token)
    assert (await claimed(tracking_list, key, some_token())).sight is Sight.SEEN


async def test_a_release_of_nothing_is_fine(opened: Open) -> None:
    tracking_list = opened()
    await tracking_list.release([], some_token())
    await tracking_list.release([some_id()], some_token())


async def test_a_claim_ends_with_its_lease(opened: Open) -> None:
    tracking_list, key = opened(), some_id()
    begun = time.monotonic()
    await tracking_list.claim([key], some_token(), SHORT_S)
    other = some_token()

    async def is_free() -> bool:
        return await claimed(tracking_list, key, other) == NEW

    await eventually(is_free)
    assert time.monotonic() - begun >= SHORT_S


async def test_a_renewed_claim_outlives_its_first_lease(opened: Open) -> None:
    tracking_list, key, token = opened(), some_id(), some_token()
    probe = some_id()
    await tracking_list.claim([key, probe], token, SHORT_S)
    await tracking_list.claim([key], token, LEASE_S)

    async def has_lease_ended() -> bool:
        return await claimed(tracking_list, probe, b"another1") == NEW

    await eventually(has_lease_ended)
    assert await claimed(tracking_list, key, some_token()) == IN_FLIGHT


async def test_a_record_ends_with_its_window(opened: Open) -> None:
    tracking_list, key = opened(), some_id()
    first_seen_s = int(time.time()) - 10
    window_s = time.time() - first_seen_s + 2 * SHORT_S
    await tracking_list.confirm([record_of(key, first_seen_s=first_seen_s, window_s=window_s)])

    async def is_forgotten() -> bool:
        return await claimed(tracking_list, key, b"a token!") == NEW

    await eventually(is_forgotten)
    assert time.time() >= first_seen_s + window_s, "it was seen until then"


async def test_the_window_runs_from_the_first_sighting(opened: Open) -> None:
    tracking_list, key = opened(), some_id()
    long_ago = int(time.time()) - 3600
    await tracking_list.confirm([record_of(key, first_seen_s=long_ago, window_s=3600.0)])

    async def is_forgotten() -> bool:
        return await claimed(tracking_list, key, b"a token!") == NEW

    await eventually(is_forgotten)


@pytest.mark.parametrize("step_s", [-86_400.0, 86_400.0], ids=["back", "forth"])
async def test_p1_a_step_of_the_clock_makes_no_duplicate(opened: Open, step_s: float) -> None:
    step = [0.0]
    tracking_list = opened(now=lambda: time.time() + step[0])
    key, token = some_id(), some_token()
    await claimed(tracking_list, key, token)
    step[0] = step_s
    assert await claimed(tracking_list, key, token) == NEW
    assert await claimed(tracking_list, key, some_token()) == IN_FLIGHT
    await tracking_list.release([key], token)
    assert await claimed(tracking_list, key, some_token()) == NEW


async def test_a_clock_set_back_does_not_lengthen_the_window(opened: Open) -> None:
    set_back = opened(now=lambda: time.time() - 86_400)
    key = some_id()
    await set_back.confirm([record_of(key, window_s=SHORT_S)])

    async def is_forgotten() -> bool:
        return await claimed(set_back, key, b"a token!") == NEW

    await eventually(is_forgotten)


async def test_many_at_once_and_one_of_each_is_new(opened: Open) -> None:
    tracking_list = opened()
    keys = [some_id() for _ in range(50)]
    found = await asyncio.gather(
        *(claimed(tracking_list, key, some_token()) for key in keys for _ in range(10))
    )
    assert found.count(NEW) == len(keys)
    assert found.count(IN_FLIGHT) == 9 * len(keys)


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
class TestShared:
    """Several gateways, one list."""

    async def test_a_claim_holds_against_the_other(self, opened: Open) -> None:
        one, other, key, token = opened(), opened(), some_id(), some_token()
        assert await claimed(one, key, token) == NEW
        assert await claimed(other, key, some_token()) == IN_FLIGHT
        await other.release([key], some_token())
        assert await claimed(other, key, some_token()) == IN_FLIGHT
        await one.release([key], token)
        assert await claimed(other, key, some_token()) == NEW

    async def test_a_record_is_seen_by_the_other(self, opened: Open) -> None:
        one, other, key = opened(), opened(), some_id()
        await one.confirm([record_of(key)])
        assert (await claimed(other, key, some_token())).sight is Sight.SEEN

    async def test_of_all_at_once_one_wins(self, opened: Open) -> None:
        lists, key = [opened() for _ in range(4)], some_id()
        found = await asyncio.gather(
            *(claimed(one, key, some_token()) for one in lists for _ in range(20))
        )
        assert found.count(NEW) == 1
        assert found.count(IN_FLIGHT) == 79

    async def test_claims_of_one_that_closed_are_free_at_once(self, opened: Open) -> None:
        one, other, key = opened(), opened(), some_id()
        await claimed(one, key, some_token())
        assert await claimed(other, key, some_token()) == IN_FLIGHT
        await one.close()
        assert await claimed(other, key, some_token()) == NEW

    async def test_a_live_worker_keeps_its_claims(self, opened: Open) -> None:
        one, other, key = opened(beat_ttl_s=BEAT_TTL_S), opened(beat_ttl_s=BEAT_TTL_S), some_id()
        await claimed(one, key, some_token())
        end = time.monotonic() + BEAT_TTL_S + 0.5
        while time.monotonic() < end:
            assert await claimed(other, key, some_token()) == IN_FLIGHT
            await asyncio.sleep(0.02)


async def test_the_journal_keeps_what_comes_with_an_outcome(opened: Open) -> None:
    tracking_list, key, token = opened(), some_id(), some_token()
    first, second = entry_of("x@example.org"), entry_of("x@example.org", recipient="\xe4@b.example")
    third = entry_of("y@example.org")
    await tracking_list.confirm([record_of(key)], [first])
    await tracking_list.release([key], token, [second])
    await tracking_list.release([], token, [third])
    assert list(await tracking_list.trail(b"x@example.org", 10)) == [first, second]
    assert list(await tracking_list.trail(b"x@example.org", 1)) == [second]
    assert list(await tracking_list.trail(b"y@example.org", 10)) == [third]
    assert list(await tracking_list.trail(b"z@example.org", 10)) == []
    assert list(await tracking_list.latest(2)) == [third, second]
    assert list(await tracking_list.latest(10)) == [third, second, first]


async def test_the_trail_of_a_very_long_id_is_found(opened: Open) -> None:
    tracking_list = opened()
    identity = b"\xe4" * 900 + b"@example.org"
    entry = entry_of(identity.decode("latin-1")[:512])
    await tracking_list.release([], some_token(), [entry])
    assert list(await tracking_list.trail(identity, 10)) == [entry]


async def test_p8_the_journal_is_bounded(opened: Open) -> None:
    tracking_list = opened(entries=100)
    for start in range(0, 1000, 50):
        entries = [entry_of("x@example.org", recipient=str(i)) for i in range(start, start + 50)]
        await tracking_list.release([], some_token(), entries)
    trail = await tracking_list.trail(b"x@example.org", 10_000)
    assert 1 <= len(trail) <= 100
    assert trail[-1].recipient == "999"
    latest = await tracking_list.latest(10_000)
    assert [entry.recipient for entry in latest] == [str(i) for i in range(999, 899, -1)]


async def test_known_tells_records_and_claims_of_one_message(opened: Open) -> None:
    tracking_list = opened()
    seen, in_flight = some_id(b"one message!"), some_id(b"one message!", b"variant!")
    await tracking_list.confirm([record_of(seen)])
    await tracking_list.claim([in_flight], some_token(), LEASE_S)
    await tracking_list.confirm([record_of(some_id())])
    known = dict(await tracking_list.known(b"one message!"))
    assert known.keys() == {seen, in_flight}
    assert known[seen].fingerprint == FINGERPRINT
    assert known[in_flight] == IN_FLIGHT
    assert list(await tracking_list.known(b"another one!")) == []


async def test_what_is_forgotten_passes_as_new(opened: Open) -> None:
    tracking_list = opened()
    one, two = some_id(b"one message!"), some_id(b"one message!")
    variant = UniqueId(one.message, one.recipient, b"variant!")
    stranger = some_id()
    await tracking_list.confirm([record_of(key) for key in (one, two, variant)], [entry_of()])
    await tracking_list.confirm([record_of(stranger)])
    assert await tracking_list.forget(one.message, one.recipient) == 2
    assert dict(await tracking_list.known(one.message)).keys() == {two}
    assert await claimed(tracking_list, one, some_token()) == NEW
    assert await tracking_list.forget(one.message, None) == 2
    assert await tracking_list.forget(one.message, None) == 0
    assert (await claimed(tracking_list, stranger, some_token())).sight is Sight.SEEN
    assert len(await tracking_list.trail(b"a@example.org", 10)) == 1


async def test_after_close_nothing_is_answered_and_nothing_hangs(opened: Open, kind: str) -> None:
    tracking_list = opened()
    await claimed(tracking_list, some_id(), some_token())
    await tracking_list.close()
    await tracking_list.close()
    if kind != "memory":
        with pytest.raises(TrackingListError):
            await claimed(tracking_list, some_id(), some_token())


async def test_one_that_was_never_used_closes_at_once(opened: Open) -> None:
    await opened().close()
