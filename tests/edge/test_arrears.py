"""What a list could not be told it is told later, and nothing that it knows is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence

import pytest

from gateway.core.policy import IN_FLIGHT, NEW, Sight, Sighting
from gateway.core.report import Entry
from gateway.core.unique_id import UniqueId
from gateway.edge import arrears
from gateway.edge.arrears import Arrears
from gateway.edge.tracking_memory import MemoryTrackingList
from gateway.errors import TrackingListError
from gateway.ports import Record
from tests.support.tracking import FINGERPRINT, LEASE_S, entry_of, record_of, some_id, some_token


class Fickle:
    """A real list behind a line that can be cut.

    Attributes:
        is_cut: whether nothing reaches the list.
        loses_replies: whether everything reaches it, and no answer comes back.
        hangs: whether whoever asks waits for ever, and nothing reaches it.
        waiting: released by each who does.
    """

    def __init__(self) -> None:
        self.list = MemoryTrackingList(entries=100)
        self.is_cut = False
        self.loses_replies = False
        self.hangs = False
        self.waiting = asyncio.Semaphore(0)

    async def _reach(self) -> None:
        if self.hangs:
            self.waiting.release()
            await asyncio.Event().wait()
        if self.is_cut:
            raise TrackingListError("cut")

    def _answer(self) -> None:
        if self.loses_replies:
            raise TrackingListError("no answer")

    async def claim(
        self, unique_ids: Sequence[UniqueId], token: bytes, lease_s: float
    ) -> Sequence[Sighting]:
        await self._reach()
        sightings = await self.list.claim(unique_ids, token, lease_s)
        self._answer()
        return sightings

    async def confirm(self, records: Sequence[Record], entries: Sequence[Entry] = ()) -> None:
        await self._reach()
        await self.list.confirm(records, entries)
        self._answer()

    async def release(
        self, unique_ids: Sequence[UniqueId], token: bytes, entries: Sequence[Entry] = ()
    ) -> None:
        await self._reach()
        await self.list.release(unique_ids, token, entries)
        self._answer()

    async def close(self) -> None:
        self.is_cut = True


@pytest.fixture
def line() -> Fickle:
    return Fickle()


@pytest.fixture
def store(line: Fickle) -> Arrears:
    return Arrears(line)


async def _seen(line: Fickle, key: UniqueId) -> Sighting:
    """Return what another transaction finds."""
    (sighting,) = await line.list.claim([key], some_token(), LEASE_S)
    return sighting


async def _fails_to_confirm(store: Arrears, line: Fickle, record: Record, *entries: Entry) -> None:
    line.is_cut = True
    with pytest.raises(TrackingListError):
        await store.confirm([record], entries)
    line.is_cut = False


async def test_what_was_accepted_during_an_outage_is_known_after_it(
    store: Arrears, line: Fickle
) -> None:
    key = some_id()
    await _fails_to_confirm(store, line, record_of(key, token=some_token()), entry_of("a@b"))
    await store.make_up()
    assert (await _seen(line, key)).fingerprint == FINGERPRINT
    assert [entry.message_id for entry in await line.list.latest(5)] == ["a@b"]


async def test_a_claim_of_the_same_transaction_becomes_its_record(
    store: Arrears, line: Fickle
) -> None:
    key, token = some_id(), some_token()
    assert await store.claim([key], token, LEASE_S) == [NEW]
    await _fails_to_confirm(store, line, record_of(key, token=token))
    assert await _seen(line, key) == IN_FLIGHT
    await store.make_up()
    assert (await _seen(line, key)).sight is Sight.SEEN


async def test_p1_another_transaction_under_way_is_left_alone(store: Arrears, line: Fickle) -> None:
    """P1: its own end will say what became of it, and may well be that it was refused."""
    key, other = some_id(), some_token()
    await _fails_to_confirm(store, line, record_of(key, token=some_token()), entry_of("a@b"))
    assert await line.list.claim([key], other, LEASE_S) == [NEW]
    await store.make_up()
    assert await _seen(line, key) == IN_FLIGHT
    await line.list.release([key], other)
    assert await _seen(line, key) == NEW
    assert len(await line.list.latest(5)) == 1  # the decision is explained all the same


async def test_p6_a_record_that_stands_is_not_replaced(store: Arrears, line: Fickle) -> None:
    """P6: an id used again while nobody could look must not push the real message's record out."""
    key = some_id()
    await line.list.confirm([record_of(key, copies=3)])
    await _fails_to_confirm(
        store, line, record_of(key, fingerprint=b"another one!", token=some_token())
    )
    await store.make_up()
    found = await _seen(line, key)
    assert (found.fingerprint, found.copies) == (FINGERPRINT, 3)


async def test_what_was_told_already_is_not_told_twice(store: Arrears, line: Fickle) -> None:
    key = some_id()
    line.loses_replies = True
    with pytest.raises(TrackingListError):
        await store.confirm([record_of(key, token=some_token())])
    line.loses_replies = False
    await store.make_up()
    assert (await _seen(line, key)).copies == 1


async def test_a_refused_message_may_come_again_once_the_list_is_back(
    store: Arrears, line: Fickle
) -> None:
    """Otherwise its retry would wait for the end of the lease: twenty minutes."""
    key, token = some_id(), some_token()
    await store.claim([key], token, LEASE_S)
    line.is_cut = True
    with pytest.raises(TrackingListError):
        await store.release([key], token, [entry_of("a@b")])
    line.is_cut = False
    assert await _seen(line, key) == IN_FLIGHT
    await store.make_up()
    assert await _seen(line, key) == NEW
    assert len(await line.list.latest(5)) == 1


async def test_what_cannot_be_told_stays_owed_in_order(store: Arrears, line: Fickle) -> None:
    keys = [some_id() for _ in range(3)]
    for key in keys:
        await _fails_to_confirm(store, line, record_of(key, token=some_token()))
    line.is_cut = True
    await store.make_up()
    line.is_cut, line.loses_replies = False, True
    await store.make_up()
    line.loses_replies = False
    await store.make_up()
    assert [(await _seen(line, key)).sight for key in keys] == [Sight.SEEN] * 3


async def test_p8_what_is_owed_is_bounded_and_the_newest_stay(
    store: Arrears, line: Fickle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrears, "_MOST_IDS", 3)
    keys = [some_id() for _ in range(5)]
    for key in keys:
        await _fails_to_confirm(store, line, record_of(key, token=some_token()))
    await store.make_up()
    found = [await _seen(line, key) for key in keys]
    assert found[:2] == [NEW, NEW]
    assert [sighting.sight for sighting in found[2:]] == [Sight.SEEN] * 3


async def test_p8_entries_alone_count_as_well(
    store: Arrears, line: Fickle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that was put off for a thousand recipients holds no claim, and much to explain."""
    monkeypatch.setattr(arrears, "_MOST_IDS", 3)
    line.is_cut = True
    for name in ("old", "new"):
        with pytest.raises(TrackingListError):
            await store.release([], some_token(), [entry_of(name), entry_of(name)])
    line.is_cut = False
    await store.make_up()
    assert {entry.message_id for entry in await line.list.latest(9)} == {"new"}


async def test_a_farewell_pays_what_can_be_paid(store: Arrears, line: Fickle) -> None:
    key = some_id()
    await _fails_to_confirm(store, line, record_of(key, token=some_token()))
    await store.close()
    assert (await _seen(line, key)).sight is Sight.SEEN


async def _cancelled_when_it_waits(line: Fickle, call: Coroutine[object, object, None]) -> None:
    line.hangs = True
    task = asyncio.create_task(call)
    await line.waiting.acquire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    line.hangs = False


async def test_a_session_that_is_cut_while_it_confirms_leaves_its_record(
    store: Arrears, line: Fickle
) -> None:
    """At the end of the drain: the client has its 250, and the worker has a second left."""
    key, token = some_id(), some_token()
    await store.claim([key], token, LEASE_S)
    await _cancelled_when_it_waits(
        line, store.confirm([record_of(key, token=token)], [entry_of("a@b")])
    )
    assert await _seen(line, key) == IN_FLIGHT
    await store.close()
    assert (await _seen(line, key)).fingerprint == FINGERPRINT
    assert [entry.message_id for entry in await line.list.latest(5)] == ["a@b"]


async def test_a_session_that_is_cut_while_it_releases_leaves_no_claim(
    store: Arrears, line: Fickle
) -> None:
    key, token = some_id(), some_token()
    await store.claim([key], token, LEASE_S)
    await _cancelled_when_it_waits(line, store.release([key], token))
    await store.close()
    assert await _seen(line, key) == NEW


async def test_p8_a_farewell_to_a_list_that_hangs_is_bounded(
    store: Arrears, line: Fickle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrears, "_FAREWELL_S", 0.05)
    await _fails_to_confirm(store, line, record_of(some_id(), token=some_token()))
    line.hangs = True
    begun = time.monotonic()
    await store.close()
    assert time.monotonic() - begun < 30.0
    assert line.is_cut, "and it is closed all the same"
