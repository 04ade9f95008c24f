"""The last hour, from samples of the counters."""

from gateway.edge.activity import ActivityRing
from gateway.edge.metrics import Metrics
from gateway.edge.metrics_exposition import merged
from tests.support.report import report_of


class _Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_what_was_counted_since_the_first_sample() -> None:
    metrics, clock = Metrics(), _Clock()
    metrics.count(report_of())
    metrics.workers_alive(2)
    ring = ActivityRing(lambda: merged([metrics.values]), clock)
    metrics.count(report_of(overhead_s=0.002))
    metrics.observe_store("claim", "ok", 0.003)
    metrics.protocol_error("tls")
    metrics.session_began()
    clock.now_s += 5
    told = ring.activity()
    assert told.duration_s == 5
    assert told.verdicts["new"] == 1, "what came before the gateway's hour does not count"
    assert told.forms["valid"] == 1
    assert (told.sessions, told.workers, told.protocol_errors) == (1, 2, 1)
    overhead_s, wait_s = told.overhead.quantile(0.5), told.list_wait.quantile(0.5)
    assert overhead_s is not None
    assert wait_s is not None
    assert 0.001 < overhead_s < 0.0025
    assert 0.0025 < wait_s < 0.005


def test_hour_moves_on() -> None:
    metrics, clock = Metrics(), _Clock()
    ring = ActivityRing(lambda: merged([metrics.values]), clock)
    for _ in range(90):
        clock.now_s += 60
        metrics.count(report_of())
        ring.take_sample()
    told = ring.activity()
    assert told.duration_s == 3_600
    assert told.verdicts["new"] == 60
    assert len(told.intervals) == 61, "sixty minutes, and what came since the last sample"
    assert sum(interval.verdicts["new"] for interval in told.intervals) == 60
