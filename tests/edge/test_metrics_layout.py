"""No label a client can choose, no two values in one place."""

import re

import pytest

from gateway.edge import metrics_layout as layout
from gateway.edge.metrics_layout import METRICS, Kind, Metric


def test_slots_do_not_overlap() -> None:
    taken: set[int] = {layout.NOWHERE}
    for metric in METRICS:
        for labels in metric.series():
            first = layout.slot(metric.name, *labels)
            slots = set(range(first, first + metric.slots_per_series))
            assert not slots & taken
            taken |= slots
    assert taken == set(range(layout.SLOTS_PER_BLOCK))


def test_blocks_can_stand_side_by_side() -> None:
    assert layout.BLOCK_OCTETS % 8 == 0


def test_series_are_few() -> None:
    """P8: however long it runs, whoever connects."""
    series = sum(
        len(list(metric.series())) * (len(metric.bounds) + 3 if metric.bounds else 1)
        for metric in METRICS
    )
    assert series < 600


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metric_is_named_by_the_rules(metric: Metric) -> None:
    assert re.fullmatch(r"mailonce_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert bool(metric.bounds) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.bounds) == sorted(set(metric.bounds))
    assert re.fullmatch(r"[A-Z].*\.", metric.text)
    for _, values in metric.labels:
        assert values
        assert all(re.fullmatch(r"[a-z0-9_]+", value) for value in values)
    assert metric.label_names == tuple(name for name, _ in metric.labels)


def test_unknown_series_is_an_error() -> None:
    with pytest.raises(KeyError):
        layout.slot("mailonce_messages_total", "new", "eaten")


def test_slots_by_their_labels() -> None:
    found = layout.slots("mailonce_store_seconds")
    assert found == {
        (operation,): layout.slot("mailonce_store_seconds", operation)
        for operation in ("claim", "confirm", "release")
    }
