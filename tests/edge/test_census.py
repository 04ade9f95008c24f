"""P8: sessions are limited over all workers, in all and for each client."""

import mmap

import pytest

from gateway.edge.census import PART_OCTETS, Census, clear
from gateway.ports import Admission

ADMITTED, FULL, GREEDY = Admission.ADMITTED, Admission.TOO_MANY, Admission.TOO_MANY_OF_CLIENT


def _workers(number: int, *, most: int = 1000, most_per_client: int = 50) -> list[Census]:
    shared = memoryview(mmap.mmap(-1, PART_OCTETS * number))
    parts = [shared[i * PART_OCTETS : (i + 1) * PART_OCTETS] for i in range(number)]
    return [
        Census(parts, own, b"key", most=most, most_per_client=most_per_client)
        for own in range(number)
    ]


def test_limit_per_client_holds_over_all_workers() -> None:
    first, second = _workers(2, most_per_client=3)
    assert [w.enter("192.0.2.1") for w in (first, second, first)] == [ADMITTED] * 3
    assert [w.enter("192.0.2.1") for w in (first, second)] == [GREEDY] * 2
    assert second.enter("192.0.2.2") is ADMITTED, "others are not held to it"
    assert first.sessions == 4
    first.leave("192.0.2.1")
    assert [second.enter("192.0.2.1") for _ in range(2)] == [ADMITTED, GREEDY]


def test_limit_in_all_holds_over_all_workers() -> None:
    first, second = _workers(2, most=2)
    assert [first.enter("192.0.2.1"), second.enter("192.0.2.2")] == [ADMITTED] * 2
    assert [first.enter("192.0.2.3"), second.enter("")] == [FULL] * 2
    assert first.sessions == 2, "who was refused is not counted"


def test_refused_are_not_counted() -> None:
    (only,) = _workers(1, most_per_client=1)
    assert only.enter("192.0.2.1") is ADMITTED
    for _ in range(5):
        assert only.enter("192.0.2.1") is GREEDY
    assert only.sessions == 1
    only.leave("192.0.2.1")
    assert only.sessions == 0
    assert only.enter("192.0.2.1") is ADMITTED


SAME = [
    ("192.0.2.1", "192.0.2.1", True, "the same address"),
    ("192.0.2.1", "192.0.2.2", False, "another"),
    ("192.0.2.1", "::ffff:192.0.2.1", True, "an IPv4 address in IPv6 clothes"),
    ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True, "one host's network"),
    ("2001:db8:1:2::1", "2001:db8:1:3::1", False, "another network"),
    ("fe80::1%eth0", "fe80::2%eth1", True, "link-local"),
]


@pytest.mark.parametrize(("one", "other", "is_same", "reason"), SAME, ids=[r[3] for r in SAME])
def test_who_counts_as_one_client(one: str, other: str, is_same: bool, reason: str) -> None:
    (only,) = _workers(1, most_per_client=1)
    assert only.enter(one) is ADMITTED
    assert only.enter(other) is (GREEDY if is_same else ADMITTED), reason


@pytest.mark.parametrize("address", ["", "unix", "not an address"])
def test_who_has_no_address_is_counted_in_all_only(address: str) -> None:
    (only,) = _workers(1, most_per_client=1)
    assert [only.enter(address) for _ in range(3)] == [ADMITTED] * 3
    assert only.sessions == 3


def test_dead_worker_is_counted_out() -> None:
    shared = memoryview(mmap.mmap(-1, PART_OCTETS * 2))
    parts = [shared[:PART_OCTETS], shared[PART_OCTETS:]]
    dead, alive = (Census(parts, i, b"k", most=9, most_per_client=2) for i in range(2))
    dead.enter("192.0.2.1")
    alive.enter("192.0.2.1")
    clear(parts[0])
    assert alive.sessions == 1
    assert [alive.enter("192.0.2.1") for _ in range(2)] == [ADMITTED, GREEDY]


def test_many_clients_do_not_share_a_count() -> None:
    """Nobody is refused for others' sessions: of 20,000 clients at their limit, hardly one."""
    (only,) = _workers(1, most=10**6, most_per_client=1)
    addresses = [f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}" for i in range(5_000)]
    refused = sum(only.enter(address) is GREEDY for address in addresses)
    assert refused < 150, "two rows of 32,768 slots: (5,000 / 32,768)² at the end"


def test_slot_never_runs_over() -> None:
    (only,) = _workers(1, most=10**6, most_per_client=10**6)
    for _ in range(65_535):
        only.enter("192.0.2.1")
    assert only.enter("192.0.2.1") is GREEDY
    assert only.sessions == 65_535


def test_limits_may_change() -> None:
    (only,) = _workers(1, most=1)
    only.enter("192.0.2.1")
    assert only.enter("192.0.2.2") is FULL
    only.most = 2
    assert only.enter("192.0.2.2") is ADMITTED
