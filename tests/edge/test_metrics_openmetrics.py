"""OpenMetrics: stricter than the text format, and read here by a parser that minds."""

from __future__ import annotations

from prometheus_client import parser
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.edge.metrics import Metrics
from gateway.edge.metrics_exposition import exposition, merged

_ACCEPT = "application/openmetrics-text; version=1.0.0"


def _samples(page: bytes, parse: object) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    assert callable(parse)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(page.decode())
        for sample in family.samples
    }


def test_the_page_is_valid_and_holds_what_the_other_holds() -> None:
    """A gauge `mailonce_sessions` and a counter `mailonce_sessions_total` are one name here."""
    metrics = Metrics()
    metrics.session_ended(is_tls=True, result="ok")
    blocks = merged([metrics.values])
    page, told = exposition(blocks, _ACCEPT)
    assert told.startswith("application/openmetrics-text")
    plain, _ = exposition(blocks)
    assert _samples(page, text_string_to_metric_families) == _samples(
        plain, parser.text_string_to_metric_families
    )
    assert b"# TYPE mailonce_sessions_total counter" in plain
