"""The judge condemns: a judge that never does proves nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.chaos import judge as causes
from tests.chaos.judge import judge
from tests.chaos.ledger import Attempt, Delivery, Effect, Ledger
from tests.chaos.post import Kind, Post

X = "x@example.org"


def attempt(began_s: float, code: int = 250, text: str = "2.0.0 Ok") -> Attempt:
    return Attempt(0, began_s, began_s + 0.1, code, text)


def copy(at_s: float, queue_id: str, mark: str = "", tried: Attempt | None = None) -> Delivery:
    return Delivery(0, X, queue_id, at_s, mark, tried or attempt(at_s - 0.05), at_s + 0.001)


def ledger_of(*copies: Delivery, kind: Kind = Kind.ORDINARY) -> Ledger:
    """Return recordings of one message that was promised, with these copies."""
    ledger = Ledger(posts=[Post(0, kind, 0, (X,), 0, 0, 0)])
    ledger.promised[0, X] = 100.0
    if copies:
        ledger.deliveries[0, X] = list(copies)
    return ledger


def test_a_promise_without_a_delivery_is_a_loss() -> None:
    assert len(judge(ledger_of()).lost) == 1


def test_a_promise_before_the_delivery_is_a_loss() -> None:
    assert len(judge(ledger_of(copy(101.0, "Q1"))).lost) == 1


def test_one_copy_is_as_it_should_be() -> None:
    judgement = judge(ledger_of(copy(1.0, "Q1")))
    assert judgement.is_clean
    assert judgement.extras.total() == 0


@pytest.mark.parametrize("remembered", [True, False])
def test_a_second_copy_without_a_fault_is_condemned(remembered: bool) -> None:
    ledger = ledger_of(copy(1.0, "Q1"), copy(5.0, "Q2"))
    if remembered:
        ledger.remembered["Q1"] = 1.01
    assert len(judge(ledger).unexplained) == 1


def test_faults_do_not_excuse_a_copy_that_the_list_knew_of() -> None:
    ledger = ledger_of(copy(1.0, "Q1"), copy(50.0, "Q2"))
    ledger.remembered["Q1"] = 1.01
    ledger.note(Effect.DIED, 1.5, 1.5)
    ledger.note(Effect.LIST_AWAY, 3.0, 4.0)
    ledger.note(Effect.PAUSED, 1.5, 4.0)
    assert len(judge(ledger).unexplained) == 1


def test_two_copies_under_way_at_once_are_condemned() -> None:
    late = copy(1.02, "Q2", tried=attempt(0.9))
    ledger = ledger_of(copy(1.0, "Q1"), late)
    ledger.remembered["Q1"] = 1.01
    assert len(judge(ledger).unexplained) == 1


def test_every_earlier_copy_needs_its_reason() -> None:
    ledger = ledger_of(copy(1.0, "Q1"), copy(50.0, "Q2"), copy(90.0, "Q3"))
    ledger.remembered["Q1"] = 1.01
    ledger.note(Effect.LIST_AWAY, 50.0, 51.0)
    assert len(judge(ledger).unexplained) == 2


def _lost(ledger: Ledger) -> None:
    first = ledger.deliveries[0, X][0]
    first.attempt = attempt(0.9, 451, "4.4.2 The connection to the next server was lost")


def _unchecked(ledger: Ledger) -> None:
    ledger.remembered["Q1"] = 1.01
    ledger.deliveries[0, X][1].mark = "unchecked"


def _died(ledger: Ledger) -> None:
    ledger.deliveries[0, X][0].attempt = attempt(0.9, 0, "")
    ledger.note(Effect.DIED, 1.002, 1.002)


def _unconfirmed(ledger: Ledger) -> None:
    ledger.note(Effect.LIST_AWAY, 0.5, 1.5)


def _forgotten(ledger: Ledger) -> None:
    ledger.remembered["Q1"] = 1.01
    ledger.note(Effect.LIST_LOST, -math.inf, 2.0)


@pytest.mark.parametrize(
    ("happen", "cause"),
    [
        (_lost, causes.AFTER_THE_DOT),
        (_unchecked, causes.UNAVAILABLE),
        (_died, causes.DIED),
        (_unconfirmed, causes.UNCONFIRMED),
        (_forgotten, causes.FORGOTTEN),
    ],
)
def test_each_window_is_told_by_its_cause(happen: object, cause: str) -> None:
    ledger = ledger_of(copy(1.0, "Q1"), copy(5.0, "Q2"))
    assert callable(happen)
    happen(ledger)
    judgement = judge(ledger)
    assert judgement.unexplained == ()
    assert judgement.extras == {cause: 1}


def test_a_message_that_nothing_identifies_is_no_duplicate() -> None:
    ledger = ledger_of(copy(1.0, "Q1"), copy(5.0, "Q2"), kind=Kind.NO_IDENTITY)
    assert judge(ledger).extras == {causes.NAMELESS: 1}


def test_altered_octets_are_not_clean() -> None:
    ledger = replace(ledger_of(copy(1.0, "Q1")), altered=["Q1"])
    assert not judge(ledger).is_clean
