"""What is watched is there: a real Prometheus scrapes a real gateway under traffic.

Every expression of the dashboard and of the rules must return data; a renamed metric or label would
otherwise show as an empty panel, and as an alert that never fires.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.edge.metrics_layout import METRICS
from tests.support.client import ClosedError, deliver
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.letter import fresh_id, letter
from tests.support.need import need
from tests.support.process import wait_until
from tests.support.prometheus import DEPLOY, Prometheus, running_prometheus
from tests.support.redis import RedisServer, redis_server
from tests.support.sink import Sink

pytestmark = [pytest.mark.tool, pytest.mark.slow, pytest.mark.timeout(240)]

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "mailonce.json").read_text())
_RULES = (DEPLOY / "prometheus" / "rules.yml").read_text()
ALERTS: list[str] = re.findall(r"- alert: (\S+)", _RULES)
RECORDS: list[str] = re.findall(r"- record: (\S+)", _RULES)
EXPRESSIONS = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]
_SELECTOR = re.compile(r"[a-z_:]*mailonce_[a-z0-9_:]+(?:\{[^}]*\})?|\bup\{[^}]*\}")


@dataclass
class Watched:
    """A gateway under traffic, and who watches it."""

    gateway: Gateway
    sink: Sink
    redis: RedisServer
    prometheus: Prometheus
    end_traffic: Callable[[], None]


def _send_everything(gateway: Gateway, stop: threading.Event) -> None:
    """Send one of each kind of message again and again, whether it is taken or not."""

    def send(message: bytes) -> None:
        with contextlib.suppress(OSError, ClosedError):
            deliver(gateway.port, "a@sender.test", ["x@example.org"], message)

    while not stop.is_set():
        twice, known = fresh_id(), fresh_id()
        for message in (
            letter(twice),
            letter(twice),
            letter(known, b"one\r\n"),
            letter(known, b"two\r\n"),
            letter(None),
            letter("weak"),
        ):
            send(message)


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with (
        redis_server() as redis,
        Sink() as sink,
        running_gateway(
            {**settings_for(sink.port), "store.url": redis.url, "workers": 2}
        ) as gateway,
        running_prometheus(gateway.http_port) as prometheus,
    ):
        stop = threading.Event()
        sender = threading.Thread(target=_send_everything, args=(gateway, stop))
        sender.start()

        def end_traffic() -> None:
            stop.set()
            sender.join(60)

        try:
            wait_until(
                lambda: (
                    prometheus.query("min(count_over_time(mailonce_build_info[1m])) >= 8")
                    and prometheus.query(
                        'instance_verdict:mailonce_recipients:share5m{verdict="new"}'
                    )
                ),
                "Prometheus to have seen enough",
                90.0,
            )
            yield Watched(gateway, sink, redis, prometheus, end_traffic)
        finally:
            end_traffic()


def _as_now(expression: str) -> str:
    """Put values for the variables of the dashboard."""
    return expression.replace("$__rate_interval", "10s").replace("$instance", ".*")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_panel_has_data(watched: Watched, expression: str) -> None:
    _wait_for_data(watched, _as_now(expression))


@pytest.mark.parametrize("name", RECORDS)
def test_recorded_series_has_data(watched: Watched, name: str) -> None:
    _wait_for_data(watched, name)


def _wait_for_data(watched: Watched, expression: str) -> None:
    """Wait until an expression has a value; who was late for a scrape has none for now."""

    def has_data() -> bool:
        samples = watched.prometheus.query(expression)
        return any(math.isfinite(float(sample["value"][1])) for sample in samples)

    wait_until(has_data, expression)


@pytest.mark.parametrize("name", ALERTS)
def test_alert_looks_at_series_that_exist(watched: Watched, name: str) -> None:
    (rule,) = [rule for rule in watched.prometheus.rules() if rule["name"] == name]
    selectors = _SELECTOR.findall(rule["query"])
    assert selectors, rule["query"]
    for selector in selectors:
        wait_until(lambda: watched.prometheus.query(selector), selector)  # noqa: B023 - used at once
    assert set(rule["annotations"]) == {"summary", "remedy"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_rules_are_evaluated_without_error(watched: Watched) -> None:
    rules = watched.prometheus.rules()
    assert len(rules) == len(ALERTS) + len(RECORDS)

    def are_well() -> bool:  # what was not evaluated yet is "unknown"
        return {rule["health"] for rule in watched.prometheus.rules()} == {"ok"}

    wait_until(are_well, "all are evaluated")


def test_annotations_are_expressions(watched: Watched) -> None:
    for annotation in DASHBOARD["annotations"]["list"]:
        watched.prometheus.query(annotation["expr"])


def test_well_gateway_alerts_nobody(watched: Watched) -> None:
    # The mix above is made of the rare: a sixth of it are collisions.
    expected = {"MailonceCollisionsRising"}
    # A scrape that took longer than the second that it has here is none: then it is down, for one.
    wait_until(lambda: watched.prometheus.alerts() <= expected, "nobody is alerted")


def test_counts_agree_with_what_was_delivered(watched: Watched) -> None:
    """P7: over all workers, each delivery is counted once, and nothing else."""
    delivered = len(watched.sink.accepted)

    def counted() -> float:
        samples = watched.prometheus.query("sum(mailonce_messages_total)")
        return float(samples[0]["value"][1]) if samples else 0.0

    def enough() -> float:
        return total if (total := counted()) >= delivered else 0.0

    total = wait_until(enough, "the next scrape")
    assert total <= len(watched.sink.accepted)
    for query, label, expected in (
        ("sum by (verdict) (mailonce_messages_total)", "verdict", "new duplicate collision"),
        ("mailonce_message_ids_total", "form", "valid missing weak"),
    ):
        samples = wait_until(lambda: watched.prometheus.query(f"{query} > 0"), query)  # noqa: B023 - used at once
        assert {sample["metric"][label] for sample in samples} == set(expected.split())


def test_dead_list_and_dead_downstream_raise_their_alerts(watched: Watched) -> None:
    """P4: mail flows without the list, and somebody is told. Last, for it breaks things."""
    prometheus = watched.prometheus
    watched.redis.kill()
    wait_until(lambda: "MailonceStoreDown" in prometheus.alerts(), "the list's alert", 60.0)
    watched.sink.refuse()
    wait_until(lambda: "MailonceDownstreamDown" in prometheus.alerts(), "downstream's alert", 60.0)
    watched.end_traffic()
    watched.gateway.stop()
    wait_until(lambda: "MailonceDown" in prometheus.alerts(), "the gateway's alert", 60.0)


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_is_proven(name: str) -> None:
    text = (DEPLOY / "prometheus" / "rules_test.yml").read_text()
    assert f'alertname="{name}"' in text or f"alertname: {name}\n" in text


def test_rules_prove_true() -> None:
    need("promtool:prometheus")
    proof = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yml"],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert proof.returncode == 0, proof.stdout + proof.stderr


def test_configuration_is_valid() -> None:
    need("promtool:prometheus")
    subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        check=True,
        timeout=180,
    )


def test_panels_lie_side_by_side_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"].endswith(".")
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_metric_is_on_the_dashboard() -> None:
    text = json.dumps(DASHBOARD)
    missing = [metric.name for metric in METRICS if metric.name not in text]
    assert missing == []
