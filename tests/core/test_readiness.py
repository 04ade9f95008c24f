"""Ready while mail flows as it should, degraded while it flows, unready while it does not."""

from dataclasses import replace
from itertools import product

import pytest

from gateway.core.readiness import Condition, Status, readiness

WELL = Condition(
    is_downstream_up=True, has_probe_failed=False, is_list_up=True, defers_unchecked=False
)

CONDITIONS = [
    (WELL, Status.READY, "all is well"),
    (replace(WELL, defers_unchecked=True), Status.READY, "tempfail is a choice, not a fault"),
    (replace(WELL, is_list_up=False), Status.DEGRADED, "mail flows unchecked"),
    (replace(WELL, may_evict=True), Status.DEGRADED, "duplicates may pass"),
    (replace(WELL, is_list_up=False, defers_unchecked=True), Status.UNREADY, "no mail flows"),
    (replace(WELL, is_downstream_up=False), Status.UNREADY, "nobody takes mail"),
    (replace(WELL, has_probe_failed=True), Status.UNREADY, "P5: sessions are refused"),
    (replace(WELL, is_unproven=True), Status.UNREADY, "P5: mail waits for the probe"),
    (replace(WELL, is_stopping=True), Status.UNREADY, "no new sessions"),
    (replace(WELL, is_starting=True), Status.UNREADY, "no sessions yet"),
]


@pytest.mark.parametrize(
    ("condition", "status", "reason"), CONDITIONS, ids=[r[2] for r in CONDITIONS]
)
def test_status(condition: Condition, status: Status, reason: str) -> None:
    assert readiness(condition).status is status, reason


@pytest.mark.parametrize("flags", list(product((True, False), repeat=8)))
def test_reasons_are_given_unless_ready(flags: tuple[bool, ...]) -> None:
    found = readiness(Condition(*flags))
    assert bool(found.reasons) == (found.status is not Status.READY)
    assert len(set(found.reasons)) == len(found.reasons)
    assert all(reason.endswith(".") for reason in found.reasons)
