"""P1 as a game: gateways, crashes, lost replies and clock steps against a small model of the list.

The model knows, for each id, what may stand in the list and what must. What a real list answers has
to be possible, and nothing that must stand may be missed:

* ``SEEN`` only with what some gateway told the list to remember; never because of claims alone, so
  that no message is ever a duplicate of itself;
* ``NEW`` only if no other live transaction holds the id for certain, and no record does;
* ``IN_FLIGHT`` only if some other transaction may hold it;
* a transaction that holds an id keeps it, whatever is lost when it asks again;
* once all faults are over, nothing is left in flight that nobody holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    rule,
    run_state_machine_as_test,
)

from gateway.core.policy import IN_FLIGHT, NEW, Sight, Sighting
from gateway.core.unique_id import UniqueId
from gateway.edge.redis_layout import worker_key
from gateway.edge.redis_link import open_link
from gateway.edge.tracking_redis import RedisTrackingList
from gateway.edge.tracking_sqlite import SqliteTrackingList
from gateway.errors import TrackingListError
from gateway.ports import Record
from tests.support.redis import RedisServer, redis_server
from tests.support.tcp_proxy import TcpProxy
from tests.support.tracking import Both, eventually, some_token

T = TypeVar("T")

TIMEOUT_S = 0.1
LEASE_S = 3600.0
WINDOW_S = 10 * 86_400.0
DAY_S = 86_400
GATEWAYS = 3
KEYS = (
    UniqueId(b"message one!", b"recipien"),
    UniqueId(b"message one!", b"another1"),
    UniqueId(b"message one!", b"recipien", b"variant!"),
)
CONTENTS = (b"contents one", b"contents two")

faults = st.sampled_from(["none", "none", "none", "none", "reply", "request"])


@dataclass
class Clock:
    """A wall clock that can be set."""

    step_s: float = 0.0

    def now(self) -> float:
        """Return Unix time as it has it."""
        return time.time() + self.step_s


@dataclass(eq=False)
class Gateway:
    """One gateway: its instance of the list, and its clock."""

    number: int
    tracking_list: Both
    clock: Clock
    is_alive: bool = True


@dataclass(eq=False)
class Transaction:
    """One message on its way through one gateway.

    Attributes:
        gateway: that it goes through.
        key: its id.
        token: of its claims.
        last: what it was told last, None if it was not.
        is_holding: whether it was told that the id is its own, and has not ended since; then a
            renewal of which nothing is heard is no orphan, for its end will release it.
    """

    gateway: Gateway
    key: UniqueId
    token: bytes
    last: Sighting | None = None
    is_holding: bool = False


@dataclass
class Known:
    """What the model knows of one id.

    Attributes:
        holder: transaction that holds it for certain.
        claimants: transactions that may.
        record: what is remembered for certain.
        records: what may be.
        is_stuck: whether a confirmation was lost: its claim may stand until the lease ends.
    """

    holder: Transaction | None = None
    claimants: set[Transaction] = field(default_factory=set)
    record: Sighting | None = None
    records: set[Sighting] = field(default_factory=set)
    is_stuck: bool = False

    def settle(self, record: Sighting | None) -> None:
        """Take it that nothing but this is left."""
        self.holder, self.claimants, self.is_stuck = None, set(), False
        self.record, self.records = record, set() if record is None else {record}


class ListMachine(RuleBasedStateMachine):
    """The game, for any kind of list."""

    transactions: Bundle[Transaction] = Bundle("transactions")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.known = {key: Known() for key in KEYS}
        self.set_up()
        self.gateways = [self.gateway(number) for number in range(GATEWAYS)]
        self.dead: list[Gateway] = []

    def gateway(self, number: int) -> Gateway:
        """Start a gateway."""
        clock = Clock()
        return Gateway(number, self.open(number, clock.now), clock)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the loop until something is done."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 60.0))

    def ask(
        self, gateway: Gateway, fault: str, call: Callable[[Both], Coroutine[Any, Any, T]]
    ) -> T | None:
        """Make one call under a fault; None if its outcome is unknown."""
        with self.faulty(gateway, fault), contextlib.suppress(TrackingListError):
            return self.do(call(gateway.tracking_list))
        # What it asked for may still be on its way, and comes before whatever is asked next.
        self.do(eventually(lambda: self.answers(gateway)))
        return None

    async def answers(self, gateway: Gateway) -> bool:
        """Say whether a gateway gets answers, and what it asked before has been done."""
        with contextlib.suppress(TrackingListError):
            await gateway.tracking_list.latest(1)
            return True
        return False

    @abstractmethod
    def set_up(self) -> None:
        """Start what all gateways share."""

    @abstractmethod
    def open(self, number: int, now: Callable[[], float]) -> Both:
        """Open a gateway's instance."""

    @abstractmethod
    def faulty(self, gateway: Gateway, fault: str) -> contextlib.AbstractContextManager[None]:
        """Have replies or requests of one gateway lost for a while."""

    @abstractmethod
    def kill(self, gateway: Gateway) -> None:
        """End it as kill -9 would."""

    @abstractmethod
    def bury(self, gateway: Gateway) -> None:
        """Let thirty seconds pass for its heartbeat."""

    @abstractmethod
    def tear_down(self) -> None:
        """Stop what all gateways share."""

    @rule(
        target=transactions,
        number=st.integers(0, GATEWAYS - 1),
        key=st.sampled_from(KEYS),
        fault=faults,
    )
    def begin(self, number: int, key: UniqueId, fault: str) -> Transaction:
        """A message comes."""
        transaction = Transaction(self.gateways[number], key, some_token())
        self.claim(transaction, fault)
        return transaction

    @rule(transaction=transactions, fault=faults)
    def ask_again(self, transaction: Transaction, fault: str) -> None:
        """It waits for another copy, or takes its time and renews its claim."""
        if transaction.gateway.is_alive:
            self.claim(transaction, fault)

    @rule(transaction=consumes(transactions), content=st.sampled_from(CONTENTS), fault=faults)
    def accept(self, transaction: Transaction, content: bytes, fault: str) -> None:
        """The downstream takes it, new or unchecked; or it was a duplicate and is counted."""
        gateway, known = transaction.gateway, self.known[transaction.key]
        if not gateway.is_alive or transaction.last == IN_FLIGHT:
            self.give_up(transaction, fault)
            return
        last, transaction.is_holding = transaction.last, False
        first_seen_s, copies = int(gateway.clock.now()), 1
        if last is not None and last.sight is Sight.SEEN:
            first_seen_s, content, copies = last.first_seen_s, last.fingerprint, last.copies + 1
        record = Record(transaction.key, first_seen_s, content, copies, WINDOW_S, b"4Zk")
        told = Sighting(Sight.SEEN, first_seen_s, content, copies, b"4Zk")
        known.records.add(told)
        known.holder, known.record = None, None
        if self.ask(gateway, fault, lambda one: _done(one.confirm([record]))) is not None:
            known.settle(told)
        else:
            known.is_stuck = True

    @rule(transaction=consumes(transactions), fault=faults)
    def refuse(self, transaction: Transaction, fault: str) -> None:
        """The downstream refuses it, or the client breaks off."""
        self.give_up(transaction, fault)

    # One rule for all that is rare: messages come more often than disasters.
    @rule(
        event=st.sampled_from(
            [
                "crash",
                "crash",
                "pass",
                "pass",
                "set back",
                "set forth",
                "forget",
                "forget all",
                "lose",
            ]
        ),
        number=st.integers(0, GATEWAYS - 1),
        key=st.sampled_from(KEYS),
    )
    def happen(self, event: str, number: int, key: UniqueId) -> None:
        """Something happens to a gateway, a clock or the list."""
        match event:
            case "crash":
                self.crash(number)
            case "pass":
                self.half_a_minute_passes()
            case "set back" | "set forth":
                self.gateways[number].clock.step_s += DAY_S if event == "set forth" else -DAY_S
            case "forget" | "forget all":
                recipient = key.recipient if event == "forget" else None
                self.forget(self.gateways[number], key.message, recipient)
            case _:
                self.data_is_lost()

    def crash(self, number: int) -> None:
        """A gateway dies and is replaced."""
        gateway = self.gateways[number]
        self.kill(gateway)
        gateway.is_alive = False
        self.dead.append(gateway)
        self.gateways[number] = self.gateway(number)
        for known in self.known.values():
            if known.holder is not None and known.holder.gateway is gateway:
                known.holder = None

    def half_a_minute_passes(self) -> None:
        """What the dead had claimed is free."""
        for gateway in self.dead:
            self.bury(gateway)
        for known in self.known.values():
            known.claimants = {t for t in known.claimants if t.gateway not in self.dead}
        self.dead = []

    def forget(self, gateway: Gateway, message: bytes, recipient: bytes | None) -> None:
        """The postmaster wants a message to pass once more."""
        while not self.ask(gateway, "none", lambda one: _done(one.forget(message, recipient))):
            pass  # a busy machine let it pass its time-out
        for other, known in self.known.items():
            if other.message == message and recipient in (None, other.recipient):
                known.settle(None)

    def data_is_lost(self) -> None:
        """The list starts anew, with nothing, if it can."""

    def claim(self, transaction: Transaction, fault: str) -> None:
        """Claim, and hold the answer against the model."""
        known, key, token = self.known[transaction.key], transaction.key, transaction.token

        async def claim(one: Both) -> Sighting:
            (sighting,) = await one.claim([key], token, LEASE_S)
            return sighting

        sighting = self.ask(transaction.gateway, fault, claim)
        transaction.last = sighting
        if sighting is None:
            if known.holder is not transaction:
                known.claimants.add(transaction)
        elif sighting == NEW:
            assert known.record is None, "a record was missed"
            assert known.holder in (None, transaction), "two hold the same id"
            known.settle(None)
            known.holder, known.claimants = transaction, {transaction}
            transaction.is_holding = True
        elif sighting == IN_FLIGHT:
            assert known.holder is not transaction, "it lost what it held"
            assert known.claimants - {transaction}, "in flight, but with whom?"
            assert known.record is None, "a record was missed"
            known.claimants.discard(transaction)
        else:
            assert known.holder is None, "what is in flight was taken for seen"
            assert sighting in known.records, "a duplicate of something nobody confirmed"
            assert known.record in (None, sighting), "an older record came back"
            known.settle(sighting)

    def give_up(self, transaction: Transaction, fault: str) -> None:
        """Release a claim."""
        known, key, token = self.known[transaction.key], transaction.key, transaction.token
        transaction.is_holding = False
        if not transaction.gateway.is_alive:
            return
        if known.holder is transaction:
            known.holder = None
        done = self.ask(transaction.gateway, fault, lambda one: _done(one.release([key], token)))
        if done is not None:
            known.claimants.discard(transaction)

    def teardown(self) -> None:
        """Once nobody holds anything, nothing is in flight."""
        try:
            for gateway in self.dead:
                self.bury(gateway)
            for known in self.known.values():
                for transaction in [t for t in known.claimants if t.is_holding]:
                    self.give_up(transaction, "none")
            for key, known in self.known.items():
                if not known.is_stuck:
                    self.do(eventually(partial(self.is_free, key)))
        finally:
            for gateway in self.gateways:
                self.do(gateway.tracking_list.close())
            self.tear_down()
            self.loop.close()

    async def is_free(self, key: UniqueId) -> bool:
        """Say whether an id is new or seen for all, after each gateway has had an answer."""
        free = True
        for gateway in self.gateways:
            token = some_token()
            try:
                (sighting,) = await gateway.tracking_list.claim([key], token, LEASE_S)
            except TrackingListError:
                return False
            free = free and sighting != IN_FLIGHT
            await gateway.tracking_list.release([key], token)
        return free


async def _done(work: Coroutine[Any, Any, object]) -> bool:
    await work
    return True


class RedisMachine(ListMachine):
    """A real Redis, each gateway behind a proxy of its own that can lose what passes."""

    server: ClassVar[RedisServer]

    def set_up(self) -> None:
        self.server.ask("FLUSHALL")
        self.proxies = [TcpProxy(self.server.port) for _ in range(GATEWAYS)]
        for proxy in self.proxies:
            self.do(proxy.__aenter__())

    def open(self, number: int, now: Callable[[], float]) -> Both:
        url = f"redis://127.0.0.1:{self.proxies[number].port}"
        return RedisTrackingList(open_link(url, TIMEOUT_S), now=now)

    @contextlib.contextmanager
    def faulty(self, gateway: Gateway, fault: str) -> Iterator[None]:
        if fault == "none":
            # The connection is made anew if the last fault ended it; a cut one is no failure.
            self.do(eventually(lambda: self.answers(gateway)))
            yield
            return
        proxy = self.proxies[gateway.number]
        proxy.swallows_replies = fault == "reply"
        proxy.swallows_requests = fault == "request"
        try:
            yield
        finally:
            proxy.swallows_replies = proxy.swallows_requests = False
            proxy.cut()

    def kill(self, gateway: Gateway) -> None:
        one = gateway.tracking_list
        assert isinstance(one, RedisTrackingList)
        if one._heart is not None:
            one._heart.cancel()
        one._is_closed = True
        self.do(one._link.close())

    def bury(self, gateway: Gateway) -> None:
        one = gateway.tracking_list
        assert isinstance(one, RedisTrackingList)
        self.server.ask("DEL", worker_key(one._worker))

    def tear_down(self) -> None:
        for proxy in self.proxies:
            self.do(proxy.__aexit__())

    def data_is_lost(self) -> None:
        """Redis starts anew, with nothing."""
        self.server.ask("FLUSHALL")
        for proxy in self.proxies:
            proxy.cut()
        self.do(asyncio.sleep(0))
        for known in self.known.values():
            known.settle(None)


class SqliteMachine(ListMachine):
    """A real file; a fault is a lock that another process holds for too long."""

    def set_up(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="model-")
        self.path = Path(self.folder.name) / "seen.db"

    def open(self, number: int, now: Callable[[], float]) -> Both:
        del number
        return SqliteTrackingList(self.path, TIMEOUT_S, now=now)

    @contextlib.contextmanager
    def faulty(self, gateway: Gateway, fault: str) -> Iterator[None]:
        self.do(eventually(lambda: self.answers(gateway)))
        if fault == "none":
            yield
            return
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            yield

    def kill(self, gateway: Gateway) -> None:
        one = gateway.tracking_list
        assert isinstance(one, SqliteTrackingList)
        one._thread._jobs.put(None)
        if one._thread._thread is not None:
            one._thread._thread.join(30.0)

    def bury(self, gateway: Gateway) -> None:
        one = gateway.tracking_list
        assert isinstance(one, SqliteTrackingList)
        self.do(eventually(lambda: self.answers(self.gateways[0])))
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            db.execute("DELETE FROM worker WHERE worker = ?", (one._worker,))
            db.commit()

    def tear_down(self) -> None:
        self.folder.cleanup()


SETTINGS = settings(
    max_examples=20,
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    # A shorter example is not worth the minutes that real time-outs make of the search for it.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_p1_redis() -> None:
    with redis_server() as server:
        RedisMachine.server = server
        run_state_machine_as_test(RedisMachine, settings=SETTINGS)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_p1_sqlite() -> None:
    run_state_machine_as_test(SqliteMachine, settings=SETTINGS)
