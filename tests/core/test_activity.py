"""The last hour is what was added between the first sample and the last."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.activity import Activity, Labels, Sample, Spread, activity

_BOUNDS = (1.0, 2.0, 4.0)
_NEW, _DUPLICATE = ("new", "relayed"), ("duplicate", "tagged")


def _sample(at_s: float, new: float, duplicate: float = 0.0) -> Sample:
    hits = Spread(_BOUNDS, (new, 0.0, 0.0, duplicate))
    numbers: Mapping[Labels, float] = {_NEW: new, _DUPLICATE: duplicate}
    return Sample(at_s, numbers, numbers, {"valid": new}, hits, hits, new, 100 * new, 3, 2)


def test_no_samples_are_no_activity() -> None:
    assert activity([]) == Activity()
    assert activity([]).verdicts == {}


def test_differences_are_told() -> None:
    told = activity([_sample(0, 10, 5), _sample(60, 12, 5), _sample(120, 20, 6)])
    assert told.duration_s == 120
    assert told.messages == {_NEW: 10, _DUPLICATE: 1}
    assert told.verdicts == {"new": 10, "duplicate": 1}
    assert told.actions == {"relayed": 10, "tagged": 1}
    assert told.forms == {"valid": 10}
    assert (told.protocol_errors, told.content_octets) == (10, 1000)
    assert (told.sessions, told.workers) == (3, 2), "gauges are as they are now"
    assert [(i.at_s, i.duration_s, dict(i.verdicts)) for i in told.intervals] == [
        (60, 60, {"new": 2, "duplicate": 0}),
        (120, 60, {"new": 8, "duplicate": 1}),
    ]
    assert told.overhead.hits == (10, 0, 0, 1)


def test_one_sample_has_no_intervals() -> None:
    told = activity([_sample(5, 10)])
    assert (told.duration_s, told.intervals, told.messages[_NEW]) == (0, (), 0)


QUANTILES = [
    ((4.0, 0.0, 0.0, 0.0), 0.5, 0.5, "evenly within a bucket"),
    ((1.0, 1.0, 0.0, 0.0), 0.5, 1.0, "up to a bound"),
    ((0.0, 0.0, 2.0, 0.0), 0.99, 3.98, "in the last bucket with a bound"),
    ((0.0, 0.0, 0.0, 9.0), 0.5, 4.0, "beyond all bounds: the last one"),
    ((0.0, 0.0, 0.0, 0.0), 0.5, None, "of nothing"),
]


@pytest.mark.parametrize(
    ("hits", "share", "value", "reason"), QUANTILES, ids=[r[3] for r in QUANTILES]
)
def test_quantile(hits: tuple[float, ...], share: float, value: float | None, reason: str) -> None:
    assert Spread(_BOUNDS, hits).quantile(share) == (
        value if value is None else pytest.approx(value)
    ), reason


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.floats(0.01, 1), st.floats(0.01, 1))
def test_quantiles_rise(hits: list[int], one: float, other: float) -> None:
    spread = Spread(_BOUNDS, tuple(map(float, hits)))
    low, high = (spread.quantile(share) for share in sorted((one, other)))
    assert (low is None) == (high is None) == (not any(hits))
    assert low is None or high is None or 0 <= low <= high <= 4


def test_counters_that_went_back_make_no_negative_spread() -> None:
    earlier = Spread(_BOUNDS, (5.0, 0.0, 0.0, 0.0))
    later = replace(earlier, hits=(3.0, 1.0, 0.0, 0.0))
    assert later.since(earlier).hits == (0.0, 1.0, 0.0, 0.0)
