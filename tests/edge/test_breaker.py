"""A dead list makes a message wait only now and then; every call is counted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest

from gateway.core.policy import NEW, Sighting
from gateway.core.report import Entry
from gateway.core.unique_id import UniqueId
from gateway.edge.breaker import Breaker
from gateway.edge.tracking_redis import connect
from gateway.errors import TrackingListError, TrackingListTimeoutError
from gateway.ports import Record
from tests.support.redis import RedisServer
from tests.support.tracking import entry_of, eventually, record_of, some_id, some_token

PERIOD_S = 5.0
TIMEOUT_S = 0.2
# Nothing shall be late because somebody else keeps the machine busy for a moment.
PATIENCE_S = 30.0
# Of the wait that a busy machine disturbed least: far from that of two time-outs.
SLACK_S = 0.15


@dataclass
class ScriptedList:
    """A list that answers, or fails, as it is told.

    Attributes:
        failure: what every call raises, if not None.
        gate: what every call waits for, if not None.
        asked: names of the calls that came through.
    """

    failure: BaseException | None = None
    gate: asyncio.Event | None = None
    asked: list[str] = field(default_factory=list)

    async def _take(self, operation: str, *_: object) -> None:
        self.asked.append(operation)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure

    async def claim(
        self, unique_ids: Sequence[UniqueId], token: bytes, lease_s: float
    ) -> Sequence[Sighting]:
        await self._take("claim", token, lease_s)
        return [NEW for _ in unique_ids]

    async def confirm(self, records: Sequence[Record], entries: Sequence[Entry] = ()) -> None:
        await self._take(f"confirm {len(records)} {len(entries)}")

    async def release(
        self, unique_ids: Sequence[UniqueId], token: bytes, entries: Sequence[Entry] = ()
    ) -> None:
        await self._take(f"release {len(unique_ids)} {len(entries)}", token)

    async def close(self) -> None:
        self.asked.append("close")


@dataclass
class World:
    """A breaker before a scripted list, a clock, and what was observed."""

    behind: ScriptedList = field(default_factory=ScriptedList)
    now: float = 100.0
    observed: list[tuple[str, str]] = field(default_factory=list)
    complaints: list[tuple[str, str]] = field(default_factory=list)
    breaker: Breaker = field(init=False)

    def __post_init__(self) -> None:
        self.breaker = Breaker(
            self.behind,
            lambda operation, result, _: self.observed.append((operation, result)),
            complain=lambda event, reason: self.complaints.append((event, reason)),
            period_s=PERIOD_S,
            monotonic=lambda: self.now,
        )

    async def claim(self) -> Sequence[Sighting]:
        return await self.breaker.claim([some_id()], some_token(), 60.0)


@pytest.fixture
def world() -> World:
    return World()


async def test_calls_pass_and_are_counted(world: World) -> None:
    assert await world.claim() == [NEW]
    await world.breaker.confirm([record_of(some_id())], [entry_of()])
    await world.breaker.release([some_id()], some_token(), [entry_of()])
    assert world.behind.asked == ["claim", "confirm 1 1", "release 1 1"]
    assert world.observed == [("claim", "ok"), ("confirm", "ok"), ("release", "ok")]
    assert world.breaker.is_up
    await world.breaker.close()
    assert world.behind.asked[-1] == "close"


@pytest.mark.parametrize(
    ("failure", "result"),
    [(TrackingListError("x"), "error"), (TrackingListTimeoutError("x"), "timeout")],
)
async def test_p4_after_a_failure_nobody_asks_for_a_while(
    world: World, failure: Exception, result: str
) -> None:
    world.behind.failure = failure
    with pytest.raises(type(failure)):
        await world.claim()
    for _ in range(3):
        with pytest.raises(TrackingListError):
            await world.claim()
        with pytest.raises(TrackingListError):
            await world.breaker.confirm([record_of(some_id())])
        with pytest.raises(TrackingListError):
            await world.breaker.release([some_id()], some_token())
    assert world.behind.asked == ["claim"]
    assert world.observed[0] == ("claim", result)
    assert world.observed[1:] == [(op, "open") for op in ("claim", "confirm", "release")] * 3
    assert not world.breaker.is_up


async def test_p4_any_operation_that_fails_opens_it(world: World) -> None:
    world.behind.failure = TrackingListTimeoutError("x")
    calls: Sequence[tuple[str, Callable[[], Awaitable[object]]]] = (
        ("claim", world.claim),
        ("confirm", lambda: world.breaker.confirm([record_of(some_id())])),
        ("release", lambda: world.breaker.release([some_id()], some_token())),
    )
    for operation, call in calls:
        with pytest.raises(TrackingListTimeoutError):
            await call()
        assert world.observed[-1] == (operation, "timeout")
        with pytest.raises(TrackingListError, match="not asked"):
            await world.claim()
        world.now += PERIOD_S


async def test_p4_one_call_a_period_tries(world: World) -> None:
    world.behind.failure = TrackingListError("x")
    for period in range(1, 4):
        for _ in range(5):
            with pytest.raises(TrackingListError):
                await world.claim()
        assert len(world.behind.asked) == period
        world.now += PERIOD_S


async def test_while_one_tries_the_others_do_not_wait(world: World) -> None:
    world.behind.failure = TrackingListError("x")
    with pytest.raises(TrackingListError):
        await world.claim()
    world.now += PERIOD_S
    world.behind.failure, world.behind.gate = None, asyncio.Event()
    trial = asyncio.ensure_future(world.claim())
    await asyncio.sleep(0)
    assert world.behind.asked == ["claim", "claim"]
    with pytest.raises(TrackingListError, match="not asked"):
        await world.claim()
    world.behind.gate.set()
    assert await trial == [NEW]
    assert world.breaker.is_up
    assert await world.claim() == [NEW]


async def test_a_trial_that_is_cancelled_leaves_the_next_period_to_another(world: World) -> None:
    world.behind.failure = TrackingListError("x")
    with pytest.raises(TrackingListError):
        await world.claim()
    world.now += PERIOD_S
    world.behind.failure = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await world.claim()
    world.behind.failure = None
    with pytest.raises(TrackingListError, match="not asked"):
        await world.claim()
    world.now += PERIOD_S
    assert await world.claim() == [NEW]


async def test_an_answer_closes_it_again(world: World) -> None:
    world.behind.failure = TrackingListError("x")
    with pytest.raises(TrackingListError):
        await world.claim()
    world.behind.failure = None
    world.now += PERIOD_S
    await world.breaker.confirm([record_of(some_id())])
    assert world.breaker.is_up
    assert await world.claim() == [NEW]


async def test_p7_the_end_and_the_return_of_a_list_are_told_once(world: World) -> None:
    """P7: with the reason; not for each message that goes unchecked meanwhile."""
    await world.claim()
    assert world.complaints == []
    world.behind.failure = TrackingListError("out of memory")
    for _ in range(3):
        with pytest.raises(TrackingListError):
            await world.claim()
        world.now += PERIOD_S
    assert world.complaints == [("store_unavailable", "out of memory")]
    world.behind.failure = None
    await world.claim()
    await world.claim()
    assert [event for event, _ in world.complaints] == ["store_unavailable", "store_recovered"]


async def test_a_probe_does_the_trial_in_place_of_a_message(world: World) -> None:
    world.behind.failure = TrackingListError("x")
    with pytest.raises(TrackingListError):
        await world.claim()
    await world.breaker.probe()
    assert world.behind.asked == ["claim", "claim"]
    world.behind.failure = None
    await world.breaker.probe()
    assert world.behind.asked == ["claim", "claim", "claim", "release 1 0"]
    assert await world.claim() == [NEW]
    assert [operation for operation, _ in world.observed] == ["claim", "claim"]


async def test_a_probe_finds_a_dead_list_before_a_message_does(world: World) -> None:
    world.behind.failure = TrackingListError("x")
    await world.breaker.probe()
    with pytest.raises(TrackingListError, match="not asked"):
        await world.claim()


async def test_p4_a_probe_finds_that_a_list_is_full(redis: RedisServer) -> None:
    """P4: a full Redis answers reads and deletions as ever, and every message would find out."""
    store = connect(redis.url, PATIENCE_S)
    breaker = Breaker(store, lambda *_: None)
    try:
        found = []
        for octets in ("0", "1", "0"):
            redis.ask("CONFIG", "SET", "maxmemory", octets)
            await breaker.probe()
            found.append(breaker.is_up)
        assert found == [True, False, True]
        assert redis.ask("KEYS", "mo:{*") == []  # it leaves nothing behind
    finally:
        redis.ask("CONFIG", "SET", "maxmemory", "0")
        await breaker.close()


async def test_what_is_no_failure_of_the_list_is_not_taken_for_one(world: World) -> None:
    world.behind.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await world.claim()
    assert world.breaker.is_up


async def _waits(breaker: Breaker, for_s: float) -> list[float]:
    """Have messages come and go for a while; return how long each waited for the list."""
    waits: list[float] = []
    end = time.monotonic() + for_s
    while time.monotonic() < end or len(waits) < 100:
        begun = time.monotonic()
        for call in _message(breaker):
            try:
                await call()
            except TrackingListError:
                continue
        waits.append(time.monotonic() - begun)
        await asyncio.sleep(0.005)
    return waits


def _message(breaker: Breaker) -> Sequence[Callable[[], Awaitable[object]]]:
    key, token = some_id(), some_token()
    return (
        lambda: breaker.claim([key], token, 60.0),
        lambda: breaker.confirm([record_of(key)]),
        lambda: breaker.release([key], token),
    )


@pytest.mark.parametrize("fault", ["down", "stalled"])
async def test_p4_how_long_messages_wait_for_a_redis_that_is(
    redis: RedisServer, fault: str
) -> None:
    period_s, for_s = 1.0, 2.6
    tracking_list = connect(redis.url, TIMEOUT_S)
    asked_s: list[float] = []

    def observe(_: str, result: str, elapsed_s: float) -> None:
        if result != "open":
            asked_s.append(elapsed_s)

    breaker = Breaker(tracking_list, observe, period_s=period_s)
    await eventually(partial(_answers, breaker))
    asked_s.clear()
    begun = time.monotonic()
    if fault == "down":
        redis.kill()
    else:
        redis.pause()
    try:
        waits = sorted(await _waits(breaker, for_s))
        periods = (time.monotonic() - begun) / period_s
    finally:
        if fault == "down":
            redis.restart()
        else:
            redis.resume()
        await tracking_list.close()
    print(f"{fault}: {len(waits)} messages, longest waits {[f'{w:.3f}' for w in waits[-4:]]} s")
    assert 1 <= len(asked_s) <= 1 + int(periods), "one in each period asks, for all the others"
    assert min(asked_s) < TIMEOUT_S + SLACK_S
    if fault == "stalled":
        assert min(asked_s) >= TIMEOUT_S
    assert waits[len(waits) // 2] < TIMEOUT_S / 2, "most of them do not wait"


async def _answers(breaker: Breaker) -> bool:
    with contextlib.suppress(TrackingListError):
        await breaker.probe()
        await breaker.claim([some_id()], some_token(), 60.0)
        return True
    return False
