"""P7, P8: every decision is counted once, under labels known in advance."""

import mmap
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

from gateway.core.message_id import Form
from gateway.core.policy import Action, Verdict
from gateway.edge.metrics import Metrics
from gateway.edge.metrics_exposition import Totals, merged
from gateway.edge.metrics_layout import BLOCK_OCTETS, NOWHERE
from tests.support.report import outcome_of, report_of, seen

_ROOT = Path(__file__).parents[2]


def _totals(*counted: Metrics) -> Totals:
    return merged([metrics.values for metrics in counted])


@pytest.mark.parametrize(
    ("verdict", "action"), list(product([v for v in Verdict if v != "partial"], Action))
)
def test_each_decision_is_counted_under_its_own_labels(verdict: Verdict, action: Action) -> None:
    metrics = Metrics()
    metrics.count(report_of(outcome_of(verdict, action)))
    totals = _totals(metrics)
    for name in ("mailonce_messages_total", "mailonce_recipients_total"):
        hit = {labels: n for labels, n in totals.all(name).items() if n}
        assert hit == {(verdict, action): 1.0}
    assert totals.values[NOWHERE] == 0


def test_message_whose_recipients_differ_is_partial_and_they_are_not() -> None:
    metrics = Metrics()
    outcomes = (
        outcome_of(),
        outcome_of(Verdict.DUPLICATE, Action.DROPPED, first=seen(60)),
        outcome_of(Verdict.DUPLICATE, Action.DROPPED, first=seen(60)),
    )
    metrics.count(report_of(*outcomes))
    totals = _totals(metrics)
    assert totals.value("mailonce_messages_total", "partial", "relayed") == 1
    assert sum(totals.all("mailonce_messages_total").values()) == 1
    assert totals.value("mailonce_recipients_total", "new", "relayed") == 1
    assert totals.value("mailonce_recipients_total", "duplicate", "dropped") == 2


@pytest.mark.parametrize("form", Form)
def test_forms_are_counted(form: Form) -> None:
    metrics = Metrics()
    metrics.count(report_of(form=form, is_id_added=form is Form.MISSING))
    totals = _totals(metrics)
    assert totals.value("mailonce_message_ids_total", form) == 1
    assert totals.value("mailonce_message_ids_added_total") == (form is Form.MISSING)


def test_message_without_header_section_has_no_form() -> None:
    metrics = Metrics()
    metrics.count(report_of(form=None))
    assert sum(_totals(metrics).all("mailonce_message_ids_total").values()) == 0


def test_content_and_overhead_are_added_up() -> None:
    metrics = Metrics()
    metrics.count(report_of(size_octets=1000, overhead_s=0.0001))
    metrics.count(report_of(size_octets=24, overhead_s=99.0))
    totals = _totals(metrics)
    assert totals.value("mailonce_content_bytes_total") == 1024
    buckets = totals.buckets("mailonce_overhead_seconds")
    assert (buckets[0], buckets[-1], sum(buckets)) == (1, 1, 2), "a bound belongs to its bucket"


AGES = [
    ((), None, "no duplicate, no age"),
    ((seen(90),), 90.25, "one"),
    ((seen(90), seen(4000)), 4000.25, "the oldest of several, once"),
    ((seen(-50),), 0.0, "a clock set back makes no negative age"),
    ((None,), None, "a list that does not tell when"),
]


@pytest.mark.parametrize(("firsts", "age_s", "reason"), AGES, ids=[row[2] for row in AGES])
def test_age_of_a_duplicate(firsts: tuple[None, ...], age_s: float | None, reason: str) -> None:
    metrics = Metrics()
    outcomes = [outcome_of(Verdict.DUPLICATE, Action.TAGGED, first=first) for first in firsts]
    metrics.count(report_of(*outcomes))
    totals = _totals(metrics)
    number = sum(totals.buckets("mailonce_duplicate_age_seconds"))
    assert number == (age_s is not None), reason
    total = totals.value("mailonce_duplicate_age_seconds")
    assert total == pytest.approx(age_s or 0.0), "the first slot of a histogram is its sum"


def test_age_counts_for_a_partial_message_too() -> None:
    metrics = Metrics()
    tagged = outcome_of(Verdict.DUPLICATE, Action.TAGGED, first=seen(90))
    metrics.count(report_of(outcome_of(), tagged))
    assert sum(_totals(metrics).buckets("mailonce_duplicate_age_seconds")) == 1


@pytest.mark.parametrize(
    ("result", "is_timed", "is_up"),
    [("ok", True, 1), ("error", True, 0), ("timeout", True, 0), ("open", False, 0)],
)
def test_operations_on_the_list(result: str, is_timed: bool, is_up: int) -> None:
    metrics = Metrics()
    metrics.observe_store("claim", "ok" if result != "ok" else "error", 0.003)
    metrics.observe_store("confirm", result, 0.003)
    totals = _totals(metrics)
    assert totals.value("mailonce_store_operations_total", "confirm", result) == 1
    assert sum(totals.buckets("mailonce_store_seconds", "confirm")) == is_timed
    assert totals.value("mailonce_store_up") == is_up


def test_replies_of_the_downstream() -> None:
    metrics = Metrics()
    metrics.downstream_is_up(False)
    metrics.observe_downstream("rcpt", "5", 0.02)
    totals = _totals(metrics)
    assert totals.value("mailonce_downstream_replies_total", "rcpt", "5") == 1
    assert sum(totals.buckets("mailonce_downstream_seconds", "rcpt")) == 1
    assert totals.value("mailonce_downstream_up") == 0
    metrics.observe_downstream("connect", "lost", 0.0)
    assert _totals(metrics).value("mailonce_downstream_up") == 0
    metrics.observe_downstream("connect", "2", 0.001)
    assert _totals(metrics).value("mailonce_downstream_up") == 1


def test_sessions_come_and_go() -> None:
    metrics = Metrics()
    metrics.session_began()
    metrics.session_began()
    metrics.session_ended(is_tls=True, result="lost")
    totals = _totals(metrics)
    assert totals.value("mailonce_sessions") == 1
    assert totals.value("mailonce_sessions_total", "yes", "lost") == 1


def test_unknown_label_costs_nothing_and_makes_no_series() -> None:
    """P8: whatever a caller passes, the number of series stays the same."""
    metrics = Metrics()
    metrics.observe_store("explode", "ok", 1.0)
    metrics.observe_downstream("HELO evil", "9", 1.0)
    metrics.protocol_error("x" * 10_000)
    metrics.session_ended(is_tls=False, result="bored")
    totals = _totals(metrics)
    assert totals.values[NOWHERE] == 4
    for name in ("mailonce_protocol_errors_total", "mailonce_sessions_total"):
        assert sum(totals.all(name).values()) == 0


_DYING = """
import mmap, os, signal, sys
from gateway.edge.metrics import Metrics
from gateway.edge.metrics_layout import BLOCK_OCTETS
from tests.support.report import report_of
dying = Metrics(mmap.mmap(int(sys.argv[1]), BLOCK_OCTETS))
dying.session_began()
dying.store_is_up(True)
dying.count(report_of())
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_successor_counts_on_and_has_no_sessions(tmp_path: Path) -> None:
    """P7: a worker that dies takes no count with it; what it held open is gone."""
    with (tmp_path / "block").open("w+b") as file:
        file.truncate(BLOCK_OCTETS)
        command = [sys.executable, "-c", _DYING, str(file.fileno())]
        died = subprocess.run(command, pass_fds=[file.fileno()], check=False, timeout=60, cwd=_ROOT)
        assert died.returncode == -signal.SIGKILL
        shared = mmap.mmap(file.fileno(), BLOCK_OCTETS)
    with shared:
        successor = Metrics(shared)
        assert _totals(successor).value("mailonce_sessions") == 1
        successor.forget_present()
        successor.count(report_of())
        totals = _totals(successor)
        del successor
    assert totals.value("mailonce_sessions") == 0
    assert totals.value("mailonce_store_up") == 0
    assert totals.value("mailonce_messages_total", "new", "relayed") == 2


def test_latest_look_counts_not_the_gloomiest() -> None:
    idle, busy = Metrics(), Metrics()
    idle.downstream_is_up(False)
    time.sleep(0.001)  # the clock has nanoseconds: one look is later than the other
    busy.downstream_is_up(True)
    assert _totals(idle, busy, Metrics()).value("mailonce_downstream_up") == 1
    assert _totals(busy, Metrics(), idle).value("mailonce_downstream_up") == 1


def test_supervisor_counts_too() -> None:
    supervisor = Metrics()
    supervisor.workers_alive(4)
    supervisor.worker_restarted()
    supervisor.relay_probe_failed(True)
    supervisor.store_evicts(True, 17)
    supervisor.log_lines_lost(3)
    totals = _totals(supervisor, Metrics())
    assert totals.value("mailonce_workers") == 4
    assert totals.value("mailonce_worker_restarts_total") == 1
    assert totals.value("mailonce_relay_probe_failed") == 1
    assert totals.value("mailonce_store_may_evict") == 1
    assert totals.value("mailonce_store_evicted_keys_total") == 17
    assert totals.value("mailonce_log_lines_lost_total") == 3


def test_no_blocks_are_no_counts() -> None:
    assert merged([]).value("mailonce_workers") == 0
