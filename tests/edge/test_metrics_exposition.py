"""The page that Prometheus scrapes: complete from the start, and true over several processes."""

import subprocess
from itertools import product

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import __version__
from gateway.edge.metrics import Metrics
from gateway.edge.metrics_exposition import exposition, merged
from gateway.edge.metrics_layout import METRICS, Kind, Metric
from tests.support.need import need
from tests.support.report import report_of

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def _samples(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, "no series twice"
            found[key] = sample.value
    return found


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_series_is_there_at_0(metric: Metric) -> None:
    page, _ = exposition(merged([Metrics().values]))
    samples = _samples(page)
    name = f"{metric.name}_count" if metric.kind is Kind.HISTOGRAM else metric.name
    names = [label for label, _ in metric.labels]
    for values in product(*(values for _, values in metric.labels)):
        assert samples[name, frozenset(zip(names, values, strict=True))] == 0.0


def test_processes_are_added_up() -> None:
    first, second = Metrics(), Metrics()
    first.count(report_of(overhead_s=0.002))
    second.count(report_of(overhead_s=0.3))
    second.session_began()
    page, _ = exposition(merged([first.values, second.values]))
    samples = _samples(page)
    labels = frozenset({("verdict", "new"), ("action", "relayed")})
    assert samples["mailonce_messages_total", labels] == 2
    assert samples["mailonce_sessions", frozenset()] == 1
    assert samples["mailonce_overhead_seconds_count", frozenset()] == 2
    assert samples["mailonce_overhead_seconds_sum", frozenset()] == pytest.approx(0.302)
    bucket = "mailonce_overhead_seconds_bucket"
    assert samples[bucket, frozenset({("le", "0.0025")})] == 1, "buckets are cumulative"
    assert samples[bucket, frozenset({("le", "0.5")})] == 2
    assert samples[bucket, frozenset({("le", "+Inf")})] == 2


def test_build_is_told() -> None:
    page, _ = exposition(merged([]))
    (labels,) = [dict(at) for name, at in _samples(page) if name == "mailonce_build_info"]
    assert labels["version"] == __version__


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        (OPEN_METRICS, "application/openmetrics-text"),
        ("text/html", "text/plain"),
        ("text/plain;version=x", "text/plain"),
        ("application/openmetrics-text;version=1.x", "text/plain"),
        ("application/openmetrics-text;version=2.\udcff", "text/plain"),
        ("application/openmetrics-text;version=2.²", "text/plain"),
    ],
)
def test_format_is_what_was_asked_for(accept: str, content_type: str) -> None:
    page, told = exposition(merged([]), accept)
    assert told.startswith(content_type)
    assert page.endswith(b"# EOF\n") == (accept == OPEN_METRICS)


@pytest.mark.tool
def test_prometheus_finds_nothing_to_blame() -> None:
    need("promtool:prometheus")
    page, _ = exposition(merged([Metrics().values]))
    lint = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, check=False, timeout=60
    )
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, b"", b"")
