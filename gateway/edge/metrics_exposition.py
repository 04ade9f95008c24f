"""The blocks of all processes as one: totals at a moment, and the page that Prometheus scrapes.

Reads only; a block may be counted in at the same time. Nothing here fails.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, metrics_core
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway import __version__
from gateway.edge.metrics_layout import (
    METRICS,
    SLOTS_PER_BLOCK,
    Kind,
    Merge,
    Metric,
    bounds,
    slot,
    slots,
)

Values = Sequence[float] | memoryview


@dataclass(frozen=True, slots=True)
class Totals:
    """What all processes have counted, at one moment.

    Attributes:
        values: laid out as a block is.
    """

    values: tuple[float, ...]

    def value(self, name: str, *labels: str) -> float:
        """Return one value of a counter or gauge; `KeyError` if there is none."""
        return self.values[slot(name, *labels)]

    def all(self, name: str) -> Mapping[tuple[str, ...], float]:
        """Return all values of a counter or gauge by their labels."""
        return {labels: self.values[at] for labels, at in slots(name).items()}

    def buckets(self, name: str, *labels: str) -> tuple[float, ...]:
        """Return how often each bucket of a histogram was hit, the last one without a bound."""
        first = slot(name, *labels) + 1
        return self.values[first : first + len(bounds(name)) + 1]


def merged(blocks: Iterable[Values]) -> Totals:
    """Add up the blocks of all processes, the supervisor's included."""
    read = [tuple(block) for block in blocks]
    values = [sum(column) for column in zip(*read, strict=True)] or [0.0] * SLOTS_PER_BLOCK
    for metric in METRICS:
        if metric.merge is Merge.LATEST:
            for labels in metric.series():
                at = slot(metric.name, *labels)
                latest = max(read, key=lambda block: block[at + 1], default=values)
                values[at : at + 2] = latest[at : at + 2]
    return Totals(tuple(values))


def exposition(totals: Totals, accept: str = "") -> tuple[bytes, str]:
    """Write the page that Prometheus scrapes.

    Args:
        totals: of all processes.
        accept: the scraper's Accept header; decides between the text formats.

    Returns:
        The page, and its content type.
    """
    try:
        # What it is asked for goes into the content type, where only ASCII may stand.
        encode, content_type = choose_encoder(accept if accept.isascii() else "")
    except TypeError:  # a version that is no number, which prometheus-client 0.26 does not expect
        encode, content_type = choose_encoder("")
    registry = CollectorRegistry(auto_describe=False)
    is_open = content_type.startswith("application/openmetrics-text")
    registry.register(_Totals(totals, is_open=is_open))
    return encode(registry), content_type


class _Totals(Collector):
    """Hands totals to the Prometheus client library."""

    def __init__(self, totals: Totals, *, is_open: bool) -> None:
        self._totals = totals
        self._is_open = is_open

    def collect(self) -> Iterator[metrics_core.Metric]:
        """Return each metric with its series."""
        for metric in METRICS:
            if self._is_open and metric.kind is Kind.COUNTER and _is_named_twice(metric):
                yield _unknown(metric, self._totals)
            else:
                yield _family(metric, self._totals)
        build = metrics_core.GaugeMetricFamily(
            "mailonce_build_info", "Version of the gateway; always 1.", labels=("version", "python")
        )
        build.add_metric((__version__, platform.python_version()), 1.0)
        yield build


def _is_named_twice(counter: Metric) -> bool:
    """Say whether a gauge has the name that a counter has in OpenMetrics, without ``_total``."""
    return counter.name.removesuffix("_total") in {metric.name for metric in METRICS}


def _unknown(counter: Metric, totals: Totals) -> metrics_core.Metric:
    """Write a counter without saying so, under its whole name: two families of one are no page."""
    family = metrics_core.UnknownMetricFamily(
        counter.name, counter.text, labels=counter.label_names
    )
    for labels in counter.series():
        family.add_metric(labels, totals.value(counter.name, *labels))
    return family


def _family(metric: Metric, totals: Totals) -> metrics_core.Metric:
    if metric.kind is Kind.HISTOGRAM:
        return _histogram(metric, totals)
    family_type = (
        metrics_core.CounterMetricFamily
        if metric.kind is Kind.COUNTER
        else metrics_core.GaugeMetricFamily
    )
    family = family_type(metric.name, metric.text, labels=metric.label_names)
    for labels in metric.series():
        family.add_metric(labels, totals.value(metric.name, *labels))
    return family


def _histogram(metric: Metric, totals: Totals) -> metrics_core.Metric:
    family = metrics_core.HistogramMetricFamily(metric.name, metric.text, labels=metric.label_names)
    names = [*map(floatToGoString, metric.bounds), "+Inf"]
    for labels in metric.series():
        counts = accumulate(totals.buckets(metric.name, *labels))
        total = totals.value(metric.name, *labels)
        family.add_metric(labels, list(zip(names, counts, strict=True)), sum_value=total)
    return family
