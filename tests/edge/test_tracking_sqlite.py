"""What only the list in a file has to get right: other processes, locks, damage, a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.core.policy import IN_FLIGHT, NEW, Sight, Sighting
from gateway.core.unique_id import UniqueId
from gateway.edge.tracking_sqlite import SqliteTrackingList, connect
from gateway.errors import TrackingListError, TrackingListTimeoutError
from tests.support.process import Child, start, wait_until
from tests.support.tracking import LEASE_S, eventually, record_of, some_id, some_token

TIMEOUT_S = 0.4
# Nothing shall be late because somebody else keeps the machine busy for a moment.
PATIENCE_S = 30.0
BEAT_TTL_S = 3.0
ROOT = Path(__file__).parents[2]

Open = Callable[..., SqliteTrackingList]
Start = Callable[..., Child]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lib" / "mailonce" / "seen.db"


@pytest.fixture
async def opened(path: Path) -> AsyncIterator[Open]:
    lists: list[SqliteTrackingList] = []

    def open_one(
        timeout_s: float = PATIENCE_S,
        **options: Any,  # noqa: ANN401 – as the class has them
    ) -> SqliteTrackingList:
        lists.append(SqliteTrackingList(path, timeout_s, **options))
        return lists[-1]

    yield open_one
    for one in lists:
        await one.close()


@pytest.fixture
def started(path: Path, tmp_path: Path) -> Iterator[Start]:
    """Return what starts a worker of another process."""
    children: list[Child] = []

    def start_one(then: str, keys: Sequence[UniqueId], beat_ttl_s: float = 30.0) -> Child:
        names = [(key.message + key.recipient).hex() for key in keys]
        program = (sys.executable, "-m", "tests.support.claimant", path, str(beat_ttl_s), then)
        log = tmp_path / f"{len(children)}.log"
        children.append(start((*program, *names), log, folder=ROOT))
        return children[-1]

    yield start_one
    for child in children:
        child.kill()


def sights_of(child: Child) -> list[str]:
    """Wait for what a worker says it found."""
    wait_until(lambda: child.tail().endswith("\n"), "the worker's claims", 50.0, child)
    found: list[str] = json.loads(child.tail())
    return found


async def claimed(tracking_list: SqliteTrackingList, key: UniqueId, token: bytes) -> Sighting:
    (sighting,) = await tracking_list.claim([key], token, LEASE_S)
    return sighting


async def hasty(opened: Open) -> SqliteTrackingList:
    """Return a list that waits for a moment only, and has opened its file."""
    tracking_list: SqliteTrackingList = opened(TIMEOUT_S)
    await claimed_at_last(tracking_list, some_id(), some_token())
    return tracking_list


async def claimed_at_last(
    tracking_list: SqliteTrackingList, key: UniqueId, token: bytes
) -> Sighting:
    """Claim until a hasty list has the time for it."""
    found: list[Sighting] = []

    async def answers() -> bool:
        with contextlib.suppress(TrackingListTimeoutError):
            found.append(await claimed(tracking_list, key, token))
        return bool(found)

    await eventually(answers)
    return found[0]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock for writing, as another process would."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield


def has_records(path: Path, count: int) -> bool:
    return rows_of(path, "record") > count


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def read(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, octets: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(octets)


def rows_of(path: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE_S)) as db:
        return len(db.execute(f"SELECT message FROM {table}").fetchall())  # noqa: S608 – ours


def beats_in(path: Path) -> dict[bytes, float]:
    """Return when each worker has beaten last, on the clock that all of them share."""
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE_S)) as db:
        return dict(db.execute("SELECT worker, beaten_at FROM worker").fetchall())


async def test_file_and_folder_are_made_and_closed_to_others(opened: Open, path: Path) -> None:
    await claimed(opened(), some_id(), some_token())
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) & 0o007 == 0


async def test_records_outlive_a_restart(opened: Open) -> None:
    one, key = opened(), some_id()
    await one.confirm([record_of(key, note=b"4Zk")])
    await one.close()
    sighting = await claimed(opened(), key, some_token())
    assert (sighting.sight, sighting.note) == (Sight.SEEN, b"4Zk")


def test_p1_of_several_processes_one_gets_each_claim(started: Start) -> None:
    keys = [some_id() for _ in range(100)]
    workers = [started("stays", keys) for _ in range(3)]
    found = [sights_of(worker) for worker in workers]
    for sights in zip(*found, strict=True):
        assert sorted(sights) == ["in_flight", "in_flight", "new"]


async def test_claims_of_a_killed_process_are_free_when_its_heart_has_stopped(
    started: Start, opened: Open, path: Path
) -> None:
    key, token = some_id(), some_token()
    worker = started("stays", [key], beat_ttl_s=BEAT_TTL_S)
    assert sights_of(worker) == ["new"]
    ((name, beat),) = beats_in(path).items()
    other = opened(beat_ttl_s=BEAT_TTL_S)
    beats = {beat}
    while len(beats) < 3:
        assert await claimed(other, key, token) == IN_FLIGHT, "it lives and beats"
        await asyncio.sleep(0.05)
        beats.add(beats_in(path)[name])
    worker.kill()

    async def is_free() -> bool:
        return await claimed(other, key, token) == NEW

    await eventually(is_free)
    assert time.monotonic() >= max(beats) + BEAT_TTL_S


def test_p1_a_process_killed_while_it_writes_leaves_a_whole_file(
    started: Start, path: Path
) -> None:
    for _ in range(3):
        worker = started("confirms", [some_id()])
        sights_of(worker)
        enough = rows_of(path, "record") + 100
        wait_until(partial(has_records, path, enough), "records", 30.0, worker)
        worker.kill()
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_p4_a_locked_file_costs_no_more_than_the_time_out(opened: Open, path: Path) -> None:
    tracking_list, key = await hasty(opened), some_id()
    with locked(path):
        begun = time.monotonic()
        outcomes = await asyncio.gather(
            *(claimed(tracking_list, some_id(), some_token()) for _ in range(50)),
            claimed(tracking_list, key, some_token()),
            return_exceptions=True,
        )
        waited_s = time.monotonic() - begun
    assert all(isinstance(outcome, TrackingListTimeoutError) for outcome in outcomes)
    assert waited_s < 50 * TIMEOUT_S / 2, "they wait together"
    assert await claimed_at_last(tracking_list, key, some_token()) == NEW


async def test_the_event_loop_goes_on_while_the_file_is_locked(opened: Open, path: Path) -> None:
    tracking_list = opened()
    await claimed(tracking_list, some_id(), some_token())
    with locked(path):
        claim = asyncio.ensure_future(claimed(tracking_list, some_id(), some_token()))
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert not claim.done()
    assert await claim == NEW


async def test_a_release_that_met_a_lock_is_made_up_for(opened: Open, path: Path) -> None:
    tracking_list, key, token = await hasty(opened), some_id(), some_token()
    await claimed_at_last(tracking_list, key, token)
    with locked(path), pytest.raises(TrackingListTimeoutError):
        await tracking_list.release([key], token)
    other = opened()

    async def is_free() -> bool:
        await claimed_at_last(tracking_list, some_id(), some_token())
        return await claimed(other, key, b"another1") == NEW

    await eventually(is_free)


async def test_p1_a_claim_nobody_waited_for_is_given_back(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking_list, key = opened(), some_id()
    await claimed(tracking_list, some_id(), some_token())
    thread = tracking_list._thread
    deliver = thread._deliver
    claim = asyncio.ensure_future(claimed(tracking_list, key, some_token()))
    made: list[object] = []

    def late(jobs: Sequence[Any], failure: Exception | None) -> None:
        # The transaction is over, but its caller goes before it hears of it.
        claim.cancel()
        made.extend(job.outcome.fresh for job in jobs)
        asyncio.get_running_loop().call_soon(deliver, jobs, failure)
        monkeypatch.undo()

    monkeypatch.setattr(thread, "_deliver", late)
    with pytest.raises(asyncio.CancelledError):
        await claim
    assert made == [(key,)]

    async def is_given_back() -> bool:
        await claimed(tracking_list, some_id(), some_token())
        return await claimed(tracking_list, key, b"another1") == NEW

    await eventually(is_given_back)


async def test_a_renewal_nobody_waited_for_leaves_the_claim(opened: Open) -> None:
    tracking_list, key, token = opened(), some_id(), some_token()
    await claimed(tracking_list, key, token)
    renewal = asyncio.ensure_future(claimed(tracking_list, key, token))
    await asyncio.sleep(0)
    renewal.cancel()
    for _ in range(5):
        await claimed(tracking_list, some_id(), some_token())
    assert await claimed(tracking_list, key, some_token()) == IN_FLIGHT


async def test_p4_a_full_disk_is_an_error_and_heals(opened: Open) -> None:
    tracking_list = opened()
    await claimed(tracking_list, some_id(), some_token())
    store = tracking_list._thread._store
    assert store is not None
    store._db.execute("PRAGMA max_page_count = 12")
    with pytest.raises(TrackingListError, match="full"):
        await tracking_list.confirm([record_of(some_id()) for _ in range(1000)])
    # It opens the file anew, without our limit: as if there were room again.
    await tracking_list.confirm([record_of(some_id())])


async def test_p4_a_damaged_file_is_an_error_that_names_it(opened: Open, path: Path) -> None:
    write(path, os.urandom(64 * 1024))
    tracking_list = opened()
    for _ in range(2):
        with pytest.raises(TrackingListError, match=r"seen\.db: file is not a database"):
            await claimed(tracking_list, some_id(), some_token())
    await asyncio.to_thread(path.unlink)
    assert await claimed(tracking_list, some_id(), some_token()) == NEW


async def test_p4_a_file_damaged_while_it_is_open_is_an_error(opened: Open, path: Path) -> None:
    one = opened()
    await one.confirm([record_of(some_id()) for _ in range(2000)])
    await one.close()
    intact = read(path)
    write(path, intact[:4096] + os.urandom(len(intact) - 4096))
    with pytest.raises(TrackingListError, match="malformed"):
        await opened().confirm([record_of(some_id()) for _ in range(100)])


async def test_a_path_that_cannot_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file" / "seen.db", tmp_path):
        tracking_list = connect(bad, PATIENCE_S)
        with pytest.raises(TrackingListError, match=str(bad)):
            await claimed(tracking_list, some_id(), some_token())
        await tracking_list.close()


async def test_a_file_of_the_first_layout_is_brought_up(opened: Open, path: Path) -> None:
    one, key = opened(), some_id()
    await one.confirm([record_of(key, copies=3)])
    await one.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE record DROP COLUMN is_retry_due")
        db.execute("PRAGMA user_version = 1")
    later = opened()
    sighting = await claimed(later, key, some_token())
    assert (sighting.copies, sighting.is_retry_due) == (3, False)
    await later.confirm([record_of(key, copies=4, is_retry_due=True)])
    assert (await claimed(later, key, some_token())).is_retry_due


async def test_a_file_of_a_later_release_is_left_alone(opened: Open, path: Path) -> None:
    one = opened()
    await claimed(one, some_id(), some_token())
    await one.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(TrackingListError, match="layout 99"):
        await claimed(opened(), some_id(), some_token())


async def test_p8_what_has_ended_is_purged_a_bit_with_every_write(opened: Open, path: Path) -> None:
    clock = [time.time()]
    tracking_list = opened(now=lambda: clock[0])
    old = [record_of(some_id(), window_s=60.0) for _ in range(100)]
    await tracking_list.confirm(old)
    clock[0] += 120.0
    await tracking_list.confirm([record_of(some_id(), first_seen_s=int(clock[0]))])
    assert rows_of(path, "record") == 101 - 2
    for _ in range(60):
        await tracking_list.confirm([record_of(some_id(), first_seen_s=int(clock[0]))])
    assert rows_of(path, "record") == 61


async def test_p8_claims_that_have_ended_are_cleared_away(opened: Open, path: Path) -> None:
    clock = [1000.0]
    tracking_list = opened(monotonic=lambda: clock[0])
    await tracking_list.claim([some_id() for _ in range(10)], some_token(), 5.0)
    clock[0] += 20.0
    await claimed(tracking_list, some_id(), some_token())
    assert rows_of(path, "claim") == 1


async def test_claims_of_an_earlier_boot_hold_nobody_up(opened: Open) -> None:
    key = some_id()
    await claimed(opened(monotonic=lambda: 500_000.0), key, some_token())
    assert await claimed(opened(monotonic=lambda: 10.0), key, some_token()) == NEW


async def test_a_step_of_the_wall_clock_makes_no_live_worker_seem_dead(opened: Open) -> None:
    one, key = opened(), some_id()
    await claimed(one, key, some_token())
    stepped = opened(now=lambda: time.time() + 86_400)
    assert await claimed(stepped, key, some_token()) == IN_FLIGHT
