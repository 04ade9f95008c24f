"""Ratios are taken within a round: what slows a whole round down must not change them."""

from __future__ import annotations

import pytest

from bench.sample import Sample, Spread, Target, is_met, result_of, spread


def _samples(subject: str, rates: dict[int, float]) -> list[Sample]:
    return [Sample("open", subject, number, {"rate": rate}) for number, rate in rates.items()]


def test_a_slow_round_hits_both_sides_of_a_ratio() -> None:
    ours = _samples("mailonce", {0: 4000.0, 1: 400.0, 2: 4200.0})
    theirs = _samples("postfix", {0: 2000.0, 1: 200.0, 2: 2000.0})
    target = Target("open", "rate", "mailonce", "postfix", 2.0)
    assert result_of([*ours, *theirs], target) == Spread(2.0, 2.0, 2.1)


def test_only_rounds_that_both_finished_count() -> None:
    ours = _samples("mailonce", {0: 4000.0, 2: 3000.0})
    theirs = _samples("postfix", {0: 2000.0, 1: 1.0})
    target = Target("open", "rate", "mailonce", "postfix", 2.0)
    assert result_of([*ours, *theirs], target) == Spread(2.0, 2.0, 2.0)


def test_added_latency_is_above_the_base() -> None:
    samples = [
        *_samples("direct", {0: 100.0}),
        *_samples("mailonce", {0: 300.0}),
        *_samples("postfix", {0: 500.0}),
    ]
    target = Target("open", "rate", "mailonce", "postfix", 1.0, is_minimum=False, base="direct")
    assert result_of(samples, target) == Spread(0.5, 0.5, 0.5)


def test_what_was_not_measured_has_no_result() -> None:
    target = Target("open", "rate", "mailonce", "postfix", 2.0)
    assert result_of(_samples("mailonce", {0: 4000.0}), target) is None
    assert spread([]) is None


@pytest.mark.parametrize(
    ("is_minimum", "middle", "expected"),
    [
        (True, 2.0, True),  # reached exactly
        (True, 1.99, False),  # short of it
        (False, 64.0, True),  # not passed
        (False, 64.1, False),  # passed
    ],
)
def test_the_median_decides(is_minimum: bool, middle: float, expected: bool) -> None:
    target = Target("large", "rss_mib", "mailonce", "", 2.0 if is_minimum else 64.0, is_minimum)
    assert is_met(target, Spread(middle, 0.0, 100.0)) is expected
